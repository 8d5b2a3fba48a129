"""`hierarchy drain PATH` and `hierarchy undrain PATH`: stop new requests to a node or engine; allow them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hierarchy.cli import flags
from hierarchy.errors import HierarchyError

READ_TIMEOUT_S = 15.0  # longer than a node waits for the next node on the path

PathArgument = Annotated[
    str, typer.Argument(metavar="PATH", help="Path of a node or engine, such as site-a/gpu-1.", show_default=False)
]
UrlOption = Annotated[str, typer.Option("--url", metavar="URL", help="URL of the node at which PATH starts.")]


class DrainError(HierarchyError):
    """The node refused; one line with its reason."""


def drain(
    path: PathArgument,
    url: UrlOption = flags.LOCAL_NODE,
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Send no new requests to a node or engine; running ones finish."""
    _post("drain", path, url, admin_key_file, tls_ca, tls_cert, tls_key)
    at = "" if url == flags.LOCAL_NODE else f" --url {url}"
    typer.echo(f"{path} gets no new requests; to undo: hierarchy undrain {path}{at}")


def undrain(
    path: PathArgument,
    url: UrlOption = flags.LOCAL_NODE,
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Send requests again to a node or engine that was drained."""
    _post("undrain", path, url, admin_key_file, tls_ca, tls_cert, tls_key)
    typer.echo(f"{path} gets requests again")


def _post(command: str, path: str, url: str, admin_key_file: Path | None, *tls: str | None) -> None:
    from hierarchy.cli.client import NodeRefused, open_node

    with open_node(url, flags.ADMIN_KEY, admin_key_file, *tls, read_timeout_s=READ_TIMEOUT_S) as node:
        try:
            node.post(f"/admin/{command}", {"path": path})
        except NodeRefused as error:
            raise DrainError(str(error)) from None
