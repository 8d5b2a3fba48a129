"""Asking a running node for something that commands show."""

from __future__ import annotations

from typing import Any

import httpx

from hierarchy.errors import UsageError
from hierarchy.logs import escape

TIMEOUT_S = 5.0


def fetch_json(url: str, path: str, **params: str) -> dict[str, Any]:
    """The JSON object that a node answers.

    Raises:
        UsageError: it cannot be reached, or this is no such node; one line that says why.
    """
    try:
        response = httpx.get(f"{url}{path}", params=params, timeout=TIMEOUT_S)
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
