"""Asking a running node for something that commands show."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import httpx

from hierarchy.cli.admin import admin_client
from hierarchy.config.blocks import TlsSpec
from hierarchy.errors import UsageError
from hierarchy.runtime.logs import escape
from hierarchy.security.tls import Tls


def fetch_json(
    url: str, path: str, *, key_file: Path | None = None, tls: TlsSpec | None = None, **params: str
) -> dict[str, Any]:
    """The JSON object that a node answers an operator.

    key_file: of the admin key; default: the environment's. tls: whose CA vouches for an https node, if it names one.

    Raises:
        UsageError: it cannot be reached, or this is no such node; one line that says why.
    """
    try:
        with admin_client(url, key_file, verify=_trust(tls) if tls and url.startswith("https:") else True) as http:
            response = http.get(path, params=params)
        page = response.json()
    except httpx.HTTPError as error:
        raise UsageError(f"cannot reach {url}: {str(error) or type(error).__name__}; is the node up?") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{url}{path} answered {response.status_code}, and no JSON; is this a node's URL?") from None
    if response.is_success and isinstance(page, dict):
        return page
    refusal = page.get("error") if isinstance(page, dict) else None
    said = refusal.get("message") if isinstance(refusal, dict) else None
    raise UsageError(f"{url}{path} answered {response.status_code}" + (f": {escape(str(said))}" if said else ""))


def _trust(spec: TlsSpec) -> ssl.SSLContext | bool:
    """What a node of this configuration trusts, with its certificate where this machine has that too."""
    if not spec.ca:
        return True
    own = [file for file in (spec.cert, spec.key) if file and os.access(Path(file).expanduser(), os.R_OK)]
    return Tls(spec if len(own) == 2 else TlsSpec(ca=spec.ca)).node
