"""A question to a child, over its pool: one small request, its whole answer. For the control plane."""

from __future__ import annotations

import asyncio

from hierarchy.errors import ChildFailed, DeadlinePassed
from hierarchy.http.framing import Dechunker
from hierarchy.http.request_head import AUTH
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.relay.upstream.connection import Upstream
from hierarchy.relay.upstream.pool import Pool

MAX_ANSWER = 1024 * 1024  # bytes


class _Collect:
    """Keeps an answer. done: its status; or a ConnectionError, whose first argument says why."""

    def __init__(self, limit: int) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.body = b""
        self.stale = False
        self._limit = limit
        self._status = 0
        self._dechunk: Dechunker | None = None

    def answer_started(self, answer: UpstreamResponse) -> None:
        self._status = answer.head.status
        self._dechunk = Dechunker() if answer.head.kind == "chunked" else None

    def answer_body(self, data: bytes) -> None:
        self.body += self._dechunk.feed(data) if self._dechunk is not None else data
        if len(self.body) > self._limit and not self.done.done():
            self.done.set_exception(ConnectionError(f"its answer is longer than {self._limit} bytes"))

    def answer_ended(self) -> None:
        if not self.done.done():
            self.done.set_result(self._status)

    def answer_whole(self, answer: UpstreamResponse, body: bytes) -> None:
        self.answer_started(answer)
        self.answer_body(body)
        self.answer_ended()

    def answer_broken(self, why: str, *, stale: bool = False) -> None:
        self.stale = stale
        if not self.done.done():
            self.done.set_exception(ConnectionError(why))


async def ask(
    pool: Pool, method: str, target: str, body: bytes = b"", *, timeout_s: float = 10.0, limit: int = MAX_ANSWER
) -> tuple[int, bytes]:
    """Send one request: to a node below with the secret that makes it believe us, to an engine with its own key.

    target: path and query, in ASCII. Returns its status and body.

    Raises:
        ChildFailed: it could not be reached, or its answer broke or is longer than `limit` bytes.
        DeadlinePassed: it did not answer within `timeout_s`.
    """
    child = pool.child
    kind = b"content-type: application/json\r\n" if body else b""
    ours = b"%b: %b\r\n" % (AUTH, child.secret) if child.is_node else child.credential
    head = b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%bcontent-length: %d\r\n\r\n" % (
        method.encode(), child.prefix + target.encode(), child.authority, ours, kind, len(body),
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            upstream = pool.take(pool.clock())
            if upstream is not None:
                answer = _Collect(limit)
                try:
                    return await _once(upstream, answer, head, body)
                except ConnectionError:
                    if not answer.stale:
                        raise
            return await _once(await pool.dial(), _Collect(limit), head, body)
    except TimeoutError:
        raise DeadlinePassed(f"{child.name} did not answer in time") from None
    except OSError as error:
        raise ChildFailed(f"{child.name} {error.strerror or error}") from None


async def _once(upstream: Upstream, answer: _Collect, head: bytes, body: bytes) -> tuple[int, bytes]:
    upstream.send(answer, head, [body], len(body))
    try:
        return await answer.done, answer.body
    except BaseException:
        if not answer.stale:
            upstream.abort()
        raise
