"""Requests of the control plane. The response is another machine's, which may be broken or hostile.

    page = (await fetch(http, "GET", f"{url}/health", timeout_s=5.0)).json()

What parents and other instances answer, dial-backs, `doctor` and all commands come through here. The response is read
up to a limit and within a time, redirects are not followed, cookies are not kept, and nothing is decompressed; the
probes of engines have a leaner client, under the same rules (`engines.probe_connection`).
3.5 kB of gzip in gzip are 4 GB and half a minute, and httpx decompresses while it reads.

Source: RFC 9110, section 12.5.3 (Accept-Encoding).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, NamedTuple

import httpx

from hierarchy.errors import NotJson
from hierarchy.runtime import safe_json

MAX_BYTES = 8 * 1024 * 1024  #: of a response; a vLLM with many histograms sends some 100 kB of metrics
LARGE_BYTES = 8 * MAX_BYTES  #: of the tree of a node that an operator asks: 20,000 engines and more
LARGE_VALUES = 8 * safe_json.MAX_VALUES
TIMEOUT_S = 10.0  #: for a whole response, unless the caller has a limit of its own
_IDENTITY = {"accept-encoding": "identity"}


class ResponseRefused(httpx.DecodingError):
    """The response is too large, or compressed although the request did not allow that."""


class Fetched(NamedTuple):
    """A complete response."""

    url: str  # of the request
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def is_ok(self) -> bool:
        """Whether its status is 200."""
        return self.status == HTTPStatus.OK

    def json(self, max_values: int = safe_json.MAX_VALUES) -> Any:
        """The decoded body. Raises `NotJson`."""
        return safe_json.decode(self.body, max_values=max_values)

    def json_or_none(self, max_values: int = safe_json.MAX_VALUES) -> Any:
        """The decoded body; None if it is not JSON."""
        try:
            return self.json(max_values)
        except NotJson:
            return None

    def text(self, chars: int) -> str:
        """The beginning of the body on one line, for a message."""
        return " ".join(self.body[: 4 * chars].decode(errors="replace").split())[:chars]


async def fetch(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_BYTES,
) -> Fetched:
    """Send a request and read its response. A pause of this process does not count as time.

    Raises:
        ResponseRefused: the response is larger than `max_bytes`, or compressed.
        httpx.ReadTimeout: it was not complete within `timeout_s`.
        httpx.HTTPError, httpx.InvalidURL: other failures.
    """
    from hierarchy.runtime import awake  # imports asyncio, which commands do without

    request = http.build_request(method, url, content=content, headers=_with_identity(headers), timeout=None)
    body = bytearray()
    try:
        async with awake.timeout(timeout_s):
            response = await http.send(request, stream=True, follow_redirects=False)
            try:
                http.cookies.clear()
                _check_head(response, max_bytes)
                async for piece in response.aiter_raw():
                    body += piece
                    _check_size(len(body), response, max_bytes)
            finally:
                await response.aclose()
    except TimeoutError:
        raise httpx.ReadTimeout(f"no complete response within {timeout_s:g} s", request=request) from None
    return Fetched(url, response.status_code, response.headers, bytes(body))


def fetch_now(
    http: httpx.Client,
    method: str,
    url: str,
    *,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_BYTES,
) -> Fetched:
    """As `fetch`, for commands, which have no event loop. Each wait also has the client's own time limits."""
    request = http.build_request(method, url, content=content, headers=_with_identity(headers), params=params or None)
    response = http.send(request, stream=True, follow_redirects=False)
    try:
        http.cookies.clear()
        _check_head(response, max_bytes)
        body = b"".join(_pieces_now(response, timeout_s, max_bytes))
    finally:
        response.close()
    return Fetched(str(request.url.copy_with(query=None)), response.status_code, response.headers, body)


@contextmanager
def stream_now(
    http: httpx.Client, path: str, content: bytes, headers: Mapping[str, str], *, max_bytes: int
) -> Iterator[httpx.Response]:
    """POST `content`, and yield the response, whose body has not been read. Each wait has the client's time limits.

    Raises, also while it is read, as `fetch`.
    """
    request = http.build_request("POST", path, content=content, headers=_with_identity(headers))
    response = http.send(request, stream=True, follow_redirects=False)
    try:
        _check_head(response, max_bytes)
        pieces = _pieces_now(response, math.inf, max_bytes)
        yield httpx.Response(response.status_code, headers=response.headers, content=pieces, request=request)
    finally:
        response.close()


def _pieces_now(response: httpx.Response, timeout_s: float, max_bytes: int) -> Iterator[bytes]:
    ends_at, size = time.monotonic() + timeout_s, 0
    for piece in response.iter_raw():
        size += len(piece)
        _check_size(size, response, max_bytes)
        if time.monotonic() > ends_at:
            raise httpx.ReadTimeout(f"no complete response within {timeout_s:g} s", request=response.request)
        yield piece


def _with_identity(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {**(headers or {}), **_IDENTITY}


def _check_head(response: httpx.Response, max_bytes: int) -> None:
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        what = f"it sent a response with content-encoding {coding[:40]!r}, which was not requested"
        raise ResponseRefused(what, request=response.request)
    length = response.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > max_bytes):
        _check_size(max_bytes + 1, response, max_bytes)


def _check_size(size: int, response: httpx.Response, max_bytes: int) -> None:
    if size > max_bytes:
        raise ResponseRefused(f"it sent more than {max_bytes} bytes", request=response.request)
