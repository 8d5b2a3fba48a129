"""The clients: connections in a closed loop, and what they measure."""

from __future__ import annotations

import asyncio
import json
import random
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

#: new for each run. Clients of OpenAI's API always send a key, and LiteLLM does not start without one
KEY = f"sk-{secrets.token_hex(32)}"
RESPONSE_DEADLINE_S = 60.0
PAUSE_S = 0.05  # after an error, so that a router that refuses is not flooded
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass
class Sample:
    """What the clients measured in a period."""

    responses: int = 0  # complete ones
    chunks: int = 0  # SSE events
    ttft_s: list[float] = field(default_factory=list)  # from sending the request to the first body byte
    gaps_s: list[float] = field(default_factory=list)  # between two reads of one response
    errors: Counter[str] = field(default_factory=Counter)


def chat(model: str, *, stream: bool, size: int = 1024, user: str = "") -> bytes:
    """The body of a chat request of about `size` bytes. The prompt has line breaks and quotes, as prose does."""
    fields = {"model": model, "stream": stream, "max_tokens": 128, **({"user": user} if user else {})}
    prose = 'The quick brown fox said: "Jump over the lazy dog."\n'
    empty = len(json.dumps({**fields, "messages": [{"role": "user", "content": ""}]}))
    text = prose * max(1, (size - empty) // len(json.dumps(prose)[1:-1]))
    return json.dumps({**fields, "messages": [{"role": "user", "content": text}]}).encode()


def post(url: str, path: str, body: bytes) -> bytes:
    """A complete POST request."""
    head = f"POST {path} HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\nauthorization: Bearer {KEY}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def completion(url: str, model: str = "bench", *, stream: bool = False, size: int = 1024, user: str = "") -> bytes:
    """A complete chat request. user: names the stream for `GET /gone` of the engine."""
    return post(url, "/v1/chat/completions", chat(model, stream=stream, size=size, user=user))


class Connection(asyncio.Protocol):
    """A keep-alive connection with one request at a time. Adds its measurements to `sample`."""

    __slots__ = ("_began", "_head", "_left", "_status", "_tail", "_waiter", "last", "sample", "started", "transport")

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.transport = cast(asyncio.Transport, None)
        self.last = 0.0  # when data came last; 0: no body byte of this response yet
        self.started: asyncio.Future[None] | None = None  # done at the first body byte
        self._waiter: asyncio.Future[int] | None = None
        self._head: bytes | None = b""
        self._began = 0.0
        self._left: int | None = 0  # bytes of the body that are missing; None: chunked
        self._status = 0
        self._tail = b""

    @classmethod
    async def open(cls, url: str, sample: Sample) -> Connection:
        """Connect. Raises OSError."""
        host, _, port = urlsplit(url).netloc.partition(":")
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(lambda: cls(sample), host, int(port)))[1]

    def send(self, request: bytes) -> asyncio.Future[int]:
        """Send a request. The future is done at the end of the response: its status, or a ConnectionError."""
        loop = asyncio.get_running_loop()
        self._waiter, self.started = loop.create_future(), loop.create_future()
        self._head, self._tail, self.last = b"", b"", 0.0
        self._began = time.perf_counter()
        self.transport.write(request)
        return self._waiter

    @property
    def usable(self) -> bool:
        """Whether the connection is open."""
        return not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits for its response."""
        for future in (self._waiter, self.started):
            if future is not None and not future.done():
                future.set_exception(ConnectionError("the connection was lost"))
                future.exception()  # marks it as retrieved, for callers that do not wait

    def data_received(self, data: bytes) -> None:
        """Measure, and find the end of the response."""
        if self._head is not None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            data = self._take_head(end)
        if not data and self._left != 0:
            return
        now = time.perf_counter()
        sample = self.sample
        if self.last:
            sample.gaps_s.append(now - self.last)
        else:
            sample.ttft_s.append(now - self._began)
            if self.started is not None and not self.started.done():
                self.started.set_result(None)
        self.last = now
        if self._left is None:
            sample.chunks += data.count(b"data: {")
            self._tail = (self._tail + data)[-len(_LAST_CHUNK) :]
            if self._tail == _LAST_CHUNK:
                self._done()
            return
        self._left -= len(data)
        if self._left <= 0:
            self._done()

    def _take_head(self, end: int) -> bytes:
        """Read the status and the length of the body. Returns the part of the body that has come."""
        assert self._head is not None
        head, data = self._head[: end + 2], self._head[end + 4 :]
        self._head = None
        self._status = int(head[9:12])
        length = _LENGTH.search(head)
        self._left = int(length[1]) if length else None
        return data

    def _done(self) -> None:
        self.sample.responses += 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._status)


class Load:
    """`count` clients that share `urls`. Each sends `request(url)` again when the response is complete.

    over_s: the time over which they start, so that streams of equal length do not all start and end together.
    """

    def __init__(
        self, urls: Sequence[str], request: Callable[[str], bytes], count: int, *, over_s: float = 0.0
    ) -> None:
        self.sample = Sample()
        self._connections: set[Connection] = set()
        self._work = [(urls[number % len(urls)], over_s * number / count) for number in range(count)]
        self._request = request
        self._clients: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._clients = [asyncio.create_task(self._run_client(url, delay_s)) for url, delay_s in self._work]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for connection in self._connections:
            connection.transport.abort()
        await asyncio.sleep(0)

    def new_sample(self) -> Sample:
        """Start a new sample, and return it."""
        self.sample = Sample()
        for connection in self._connections:
            connection.sample = self.sample
        return self.sample

    async def _run_client(self, url: str, delay_s: float) -> None:
        request = self._request(url)
        await asyncio.sleep(delay_s)
        connection: Connection | None = None
        while True:
            try:
                if connection is None or not connection.usable:
                    connection = await Connection.open(url, self.sample)
                    self._connections.add(connection)
                async with asyncio.timeout(
                    RESPONSE_DEADLINE_S
                ):  # not wait_for, which may lose a cancellation in Python 3.11
                    status = await connection.send(request)
                problem = "" if status == 200 else f"status {status}"
            except (OSError, TimeoutError) as error:
                problem = str(error) or type(error).__name__
            if problem:
                self.sample.errors[problem] += 1
                if connection is not None:
                    connection.transport.abort()
                    self._connections.discard(connection)
                    connection = None
                await asyncio.sleep(PAUSE_S * random.uniform(1, 2))


async def every(count: int, at_once: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Run `work(0)` to `work(count - 1)`, `at_once` at a time. The first error ends all."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, count)):
            group.create_task(worker())
