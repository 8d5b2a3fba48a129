"""A raw client: one connection per request, unprocessed responses, and no retries."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hierarchy.http.framing import Dechunker

Address = tuple[str, int]
MODEL = "simulated"
TIMEOUT_S = 60.0  # of one request; a client that waits longer has failed
_TOKEN = re.compile(rb'"content":"([^"]*)"')


@dataclass
class Outcome:
    """The outcome of one request. Times in seconds of the monotonic clock."""

    started: float
    status: int = 0
    first_byte: float = 0.0
    ended: float = 0.0
    error: str = ""  # of the connection, or the timeout
    body: bytes = b""
    path: str = ""  # `x-hierarchy-path`
    complete: bool = False  # according to its framing
    streamed: bool = False
    left: bool = False  # the client left before the end

    @property
    def has_byte(self) -> bool:
        """Whether a byte of the body came."""
        return self.first_byte > 0

    @property
    def ok(self) -> bool:
        """Whether the response is complete and has no error."""
        good = self.status == 200 and self.complete and not self.error
        good = good and b"event: error" not in self.body and b'data: {"error"' not in self.body
        return good and (not self.streamed or self.body.rstrip().endswith(b"data: [DONE]"))

    @property
    def has_error_event(self) -> bool:
        """Whether it is a stream that ended in an error event."""
        return self.complete and self.body.count(b"event: error\ndata: ") == 1 and b"[DONE]" not in self.body

    @property
    def tokens(self) -> list[str]:
        """The tokens of a stream."""
        return [token.decode() for token in _TOKEN.findall(self.body) if token]

    @property
    def seconds(self) -> float:
        """Duration of the request."""
        return self.ended - self.started

    @property
    def wait(self) -> float:
        """Seconds until the first byte of the body, or the end without one."""
        return (self.first_byte or self.ended) - self.started

    def __str__(self) -> str:
        return f"{self.status} {self.error or self.body[-120:]!r} after {self.seconds:.2f} s"


def request(tokens: int, *, stream: bool, model: str = MODEL) -> bytes:
    """A chat request."""
    body = json.dumps(
        {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": tokens, "stream": stream}
    ).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )


async def get(address: Address, path: str) -> bytes:
    """The body at a path, without a thread and in less CPU time than httpx takes. Raises OSError, ValueError."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(b"GET %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path.encode())
        head, found, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    if not found:
        raise ValueError(f"no response at {path}")
    return Dechunker().feed(body) if b"transfer-encoding: chunked" in head.lower() else body


async def send(
    addresses: Sequence[Address],
    *,
    tokens: int = 4,
    stream: bool = False,
    model: str = MODEL,
    timeout_s: float = TIMEOUT_S,
    leave: bool = False,
) -> Outcome:
    """Send one request. If a connection is refused, and only then, the next address is tried.

    leave: the client leaves after the first bytes of the body.
    """
    outcome = Outcome(time.monotonic(), streamed=stream)
    try:
        async with asyncio.timeout(timeout_s):
            await _send(outcome, addresses, request(tokens, stream=stream, model=model), leave=leave)
    except TimeoutError:
        outcome.error, outcome.left = f"not complete after {timeout_s:g} s", True
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    outcome.ended = time.monotonic()
    return outcome


async def _send(outcome: Outcome, addresses: Sequence[Address], data: bytes, *, leave: bool) -> None:
    for number, address in enumerate(addresses):
        try:
            reader, writer = await asyncio.open_connection(*address)
            break
        except ConnectionRefusedError:
            if number == len(addresses) - 1:
                raise
    try:
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        outcome.status = int(head[9:12])
        found = re.search(rb"\r\nx-hierarchy-path: ([^\r]*)", head)
        outcome.path = found[1].decode() if found else ""
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        dechunker, parts = Dechunker(), []
        last_bytes = b""
        while True:
            data = await reader.read(65536)
            if not data:
                break
            outcome.first_byte = outcome.first_byte or time.monotonic()
            last_bytes = (last_bytes + data)[-16:]
            parts.append(data if length else dechunker.feed(data))
            if leave:
                outcome.left = True
                break
        outcome.body = b"".join(parts)
        outcome.complete = len(outcome.body) == int(length[1]) if length else last_bytes.endswith(b"0\r\n\r\n")
    finally:
        writer.close()


@dataclass
class Load:
    """Clients in a closed loop: each sends its next request `pause_s` after the last response."""

    addresses: Sequence[Address]
    clients: int
    tokens: int = 4
    stream: bool = False
    pause_s: float = 0.0
    model: str = MODEL
    outcomes: list[Outcome] = field(default_factory=list)

    async def run(self, *, count: int = 0, until: Callable[[], bool] = lambda: False) -> list[Outcome]:
        """Run until `count` requests were sent, or `until` returns True."""
        sent = 0

        async def client() -> None:
            nonlocal sent
            while not (until() or (count and sent >= count)):
                sent += 1
                self.outcomes.append(
                    await send(self.addresses, tokens=self.tokens, stream=self.stream, model=self.model)
                )
                if self.pause_s:
                    await asyncio.sleep(self.pause_s)

        await asyncio.gather(*(client() for _ in range(self.clients)))
        return self.outcomes

    @property
    def failed(self) -> list[Outcome]:
        """The requests that were not served."""
        return [outcome for outcome in self.outcomes if not outcome.ok]

    def causes(self) -> str:
        """The first failures, for the message of an assertion."""
        return "; ".join(str(outcome) for outcome in self.failed[:5])
