"""Posts messages to one parent, and turns each bad response into a `ParentError`."""

from __future__ import annotations

import math
from typing import Any

import httpx
import msgspec

from hierarchy.errors import HierarchyError, InvalidField, NotJson, describe
from hierarchy.runtime.fetch import Fetched, fetch
from hierarchy.wire.checks import MAX_INTERVAL_S, check_name, check_printable
from hierarchy.wire.messages import Accepted, is_prefix_key

TIMEOUT_S = 5.0
MAX_WANTED = 2**31  # links; more cannot be meant
MAX_RESPONSE_BYTES = 4 * 1024 * 1024  # 256 shared records are the longest part, with some 5 kB each
MAX_MESSAGE = 1000  # characters of a parent's error, which is logged
MAX_RETRY_AFTER_S = 30.0  # of a parent that has no time for a report
MAX_CREDENTIAL = 16 * 1024  # characters


class ParentError(HierarchyError):
    """The message had no effect at the parent, or may have had none.

    Attributes:
        status: HTTP status of the response; 0 if there was none.
        retry_after_s: when the parent has time again, as it says.
    """

    def __init__(self, message: str, status: int = 0, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class ParentClient:
    """HTTP requests to the parent at the URL `parent`.

    secret: shown in each message, to prove that all of them come from one child.
    """

    def __init__(self, parent: str, http: httpx.AsyncClient, secret: bytes) -> None:
        self._parent = parent
        self._http = http
        self._secret = secret.decode()

    async def post(self, path: str, message: msgspec.Struct, *, timeout_s: float = TIMEOUT_S, bearer: str = "") -> Any:
        """The decoded JSON of a 200 response. bearer: token or credential to show; "" for none.

        Raises:
            ParentError: no response, another status, or not JSON.
        """
        content = msgspec.json.encode(message)
        try:
            response = await fetch(
                self._http,
                "POST",
                self._parent + path,
                content=content,
                headers=self._headers(content, bearer),
                timeout_s=timeout_s,
                max_bytes=MAX_RESPONSE_BYTES,
            )
        except httpx.ReadTimeout:
            raise ParentError(f"no response within {timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise ParentError(self._explain(error)) from error
        return _decoded(response)

    def _headers(self, content: bytes, bearer: str) -> dict[str, str]:
        authorization = {"authorization": f"Bearer {bearer}"} if bearer else {}
        return {
            "content-type": "application/json",
            **authorization,
            "x-hierarchy-auth": self._secret,
            # Means nothing here, but a parent caches heads by all but this number, so that a report's head is parsed
            # once (`relay.downstream.head_cache`).
            "x-hierarchy-seq": "0",
            "content-length": str(len(content)),
        }

    def _explain(self, error: Exception) -> str:
        reason = describe(error)
        if self._parent.startswith("http:") and isinstance(error, httpx.ReadError | httpx.RemoteProtocolError):
            return f"{reason}; does the parent expect https?"
        return reason


def _decoded(response: Fetched) -> Any:
    if not response.is_ok:
        message = _message(response.json_or_none())
        answer = f"it answered {response.status}: {message}".rstrip(": ")
        raise ParentError(answer, response.status, _seconds(response.headers.get("retry-after", "")))
    try:
        return response.json()
    except NotJson:  # it must not pass for FastChat's original controller, which answers `null`
        raise ParentError("the response is not JSON; is there a controller at that address?", 200) from None


def _seconds(text: str) -> float:
    """A `Retry-After` in seconds, within reason; other forms mean nothing here."""
    return min(float(text), MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() and len(text) < 6 else 1.0


def _message(body: Any) -> str:
    """The message of OpenAI's error object; "" if there is none."""
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message[:MAX_MESSAGE] if isinstance(message, str) else ""


def parse_accepted(body: Any) -> Accepted:
    """A node's response to a registration.

    Raises:
        ParentError: it is not one, or has values that make no sense.
    """
    try:
        accepted = msgspec.convert(body, Accepted)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise ParentError(f"the response is not understood: {error}", 200) from None
    if not accepted.instance:  # otherwise any JSON object would do
        raise ParentError("the response names no instance; is there a controller at that address?", 200)
    if not (math.isfinite(accepted.links_per_s) and 0 <= accepted.wanted < MAX_WANTED):
        raise ParentError(f"it requests {accepted.wanted} links, {accepted.links_per_s} a second", 200)
    if not (math.isfinite(accepted.interval_s) and 0 < accepted.interval_s <= MAX_INTERVAL_S):
        raise ParentError(f"it requests a report every {accepted.interval_s} s", 200)
    if accepted.prefix_key is not None and not is_prefix_key(accepted.prefix_key):
        raise ParentError("the key for fingerprints of prompts is not a short hexadecimal number", 200)
    _check_text(accepted)
    return accepted


def _check_text(accepted: Accepted) -> None:
    """Raise `ParentError` for text that this node could not show again in a field of a head, or log."""
    try:
        for field in ("node", "instance", "version"):
            if text := getattr(accepted, field):
                check_name(field, text)
        check_printable("credential", accepted.credential, MAX_CREDENTIAL)
    except InvalidField as error:
        raise ParentError(f"the response is not understood: {error}", 200) from None
