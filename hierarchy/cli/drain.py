"""`hierarchy drain PATH`, `hierarchy undrain PATH`: no new requests for a node or engine anywhere below; or again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from hierarchy.cli.admin import AdminKeyFile, admin_client
from hierarchy.cli.chat import base_url
from hierarchy.config.address import DEFAULT_PORT
from hierarchy.runtime.logs import escape

TIMEOUT_S = 15.0  # above the time that a node gives one below it

PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="such as site-a/gpu-1, as `x-hierarchy-path` has it")]
UrlOption = Annotated[str, typer.Option("--url", help="a node above it, from which PATH starts")]
HERE = f"http://localhost:{DEFAULT_PORT}"


def drain(path: PathArgument, url: UrlOption = HERE, admin_key_file: AdminKeyFile = None) -> None:
    """Send no new requests to a node or engine; what it is answering goes on."""
    _command(url, "drain", path, admin_key_file)
    typer.echo(f"{path} gets no new requests; `hierarchy undrain {path}` ends that")


def undrain(path: PathArgument, url: UrlOption = HERE, admin_key_file: AdminKeyFile = None) -> None:
    """Send requests again to what was drained."""
    _command(url, "undrain", path, admin_key_file)
    typer.echo(f"{path} gets requests again")


def _command(url: str, command: str, path: str, key_file: Path | None) -> None:
    """Tell the node at `url`; what goes wrong ends the program with one line and status 1."""
    base = base_url(url)
    try:
        with admin_client(base, key_file, timeout_s=TIMEOUT_S) as http:
            answer = http.post(f"/admin/{command}", json={"path": path})
    except httpx.HTTPError as error:
        why = f"cannot reach {base}: {str(error) or type(error).__name__}; is the node up?"
    else:
        if answer.status_code == 200:
            return
        why = _reason(answer)
    typer.echo(f"error: {escape(why)}", err=True)
    raise typer.Exit(1)


def _reason(answer: httpx.Response) -> str:
    try:
        error: Any = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        error = "is this a node's URL?"
    return f"{answer.url} answered {answer.status_code}: {error}"
