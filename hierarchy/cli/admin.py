"""What the commands for operators share: the admin key, from the environment or a file, never from the command line."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Annotated

import httpx
import typer

from hierarchy.security.secret import check_secret, read_secret_file

ADMIN_KEY, API_KEY = "HIERARCHY_ADMIN_KEY", "HIERARCHY_API_KEY"
TIMEOUT_S = 5.0

AdminKeyFile = Annotated[Path | None, typer.Option(help=f"file with the admin key  [default: ${ADMIN_KEY}]")]


def bearer(file: Path | None, variable: str) -> dict[str, str]:
    """Header fields with the key in `file`, else in the environment; none if there is none. Raises `UsageError`."""
    key = ""
    if file is not None:
        key = read_secret_file(file)
    elif variable in os.environ:
        key = check_secret(os.environ[variable], f"env:{variable}")
    return {"authorization": f"Bearer {key}"} if key else {}


def admin_client(
    url: str, file: Path | None, *, timeout_s: float = TIMEOUT_S, verify: ssl.SSLContext | bool = True
) -> httpx.Client:
    """For an operator's requests to the node at `url`."""
    return httpx.Client(base_url=url, headers=bearer(file, ADMIN_KEY), timeout=timeout_s, verify=verify)
