"""One small request to a child over its pool, and its whole response. For the control plane."""

from __future__ import annotations

import asyncio

from hierarchy.errors import ChildFailed, DeadlinePassed
from hierarchy.http.framing import Dechunker
from hierarchy.http.request_head import AUTH
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.registry.public_name import said_of
from hierarchy.relay.upstream.connection import ResponseHandler, Upstream
from hierarchy.relay.upstream.pool import Pool
from hierarchy.runtime import awake

MAX_RESPONSE = 1024 * 1024  # bytes


class _Collector(ResponseHandler):
    """Keeps a response. limit: bytes of its body."""

    def __init__(self, limit: int) -> None:
        #: its status; or a ConnectionError, whose first argument is the reason
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.body = b""
        self.stale = False
        self._limit = limit
        self._dechunk: Dechunker | None = None

    def response_started(self, response: UpstreamResponse) -> None:
        self._dechunk = Dechunker() if response.head.kind == "chunked" else None

    def response_body(self, response: UpstreamResponse, data: bytes) -> None:
        self.body += self._dechunk.feed(data) if self._dechunk is not None else data
        if len(self.body) > self._limit and not self.done.done():
            self.done.set_exception(ConnectionError(f"its response is longer than {self._limit} bytes"))

    def response_ended(self, response: UpstreamResponse) -> None:
        if not self.done.done():
            self.done.set_result(response.head.status)

    def response_whole(self, response: UpstreamResponse, body: bytes) -> None:
        self.response_started(response)
        self.response_body(response, body)
        self.response_ended(response)

    def response_broken(self, reason: str, *, stale: bool = False) -> None:
        self.stale = stale
        if not self.done.done():
            self.done.set_exception(ConnectionError(reason))


async def send_request(
    pool: Pool, method: str, target: str, body: bytes = b"", *, timeout_s: float = 10.0, limit: int = MAX_RESPONSE
) -> tuple[int, bytes]:
    """Send one request: to a node with the secret that makes it believe this one, to an engine with its own key.

    target: path and query, in ASCII. Returns the status and the body of the response.

    Raises:
        ChildFailed: it could not be reached, or its response broke or is longer than `limit` bytes.
        DeadlinePassed: it did not answer within `timeout_s`.
    """
    child = pool.child
    content_type = b"content-type: application/json\r\n" if body else b""
    authorization = b"%b: %b\r\n" % (AUTH, child.secret) if child.is_node else child.credential
    head = b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%bcontent-length: %d\r\n\r\n" % (
        method.encode(), child.prefix + target.encode(), child.authority, authorization, content_type, len(body),
    )  # fmt: skip
    try:
        async with awake.timeout(timeout_s):
            upstream = pool.take(pool.clock())
            if upstream is not None:
                collector = _Collector(limit)
                try:
                    return await _once(upstream, collector, head, body)
                except ConnectionError:
                    if not collector.stale:
                        raise
            return await _once(await pool.dial(), _Collector(limit), head, body)
    except TimeoutError:
        raise DeadlinePassed(said_of(child, "did not answer in time")) from None
    except OSError as error:
        raise ChildFailed(said_of(child, error.strerror or str(error))) from None


async def _once(upstream: Upstream, collector: _Collector, head: bytes, body: bytes) -> tuple[int, bytes]:
    upstream.send(collector, head, [body], len(body))
    try:
        return await collector.done, collector.body
    except BaseException:
        if not collector.stale:
            upstream.abort()
        raise
