"""A raw client: one connection a request, what came back as it came, and no second try of its own."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hierarchy.http.framing import Dechunker

Address = tuple[str, int]
LIMIT_S = 60.0  # for one request; a client that hangs for longer is a failure
_WORD = re.compile(rb'"content":"([^"]*)"')


@dataclass
class Outcome:
    """What became of one request. Seconds of the monotonic clock."""

    began: float
    status: int = 0
    first_byte: float = 0.0
    ended: float = 0.0
    error: str = ""  # of the connection
    body: bytes = b""
    path: str = ""
    complete: bool = False  # by its framing
    streamed: bool = False

    @property
    def has_byte(self) -> bool:
        return self.first_byte > 0

    @property
    def ok(self) -> bool:
        good = self.status == 200 and self.complete and not self.error and b"event: error" not in self.body
        return good and (not self.streamed or self.body.rstrip().endswith(b"data: [DONE]"))

    @property
    def told(self) -> bool:
        """A stream that was cut, and said so."""
        return self.complete and self.body.count(b"event: error\ndata: ") == 1 and b"[DONE]" not in self.body

    @property
    def words(self) -> list[str]:
        return [word.decode() for word in _WORD.findall(self.body) if word]

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def wait(self) -> float:
        """For the first byte."""
        return (self.first_byte or self.ended) - self.began

    def __str__(self) -> str:
        return f"{self.status} {self.error or self.body[-120:]!r} after {self.seconds:.2f} s"


def request(tokens: int, *, stream: bool) -> bytes:
    body = json.dumps(
        {"model": "simulated", "messages": [{"role": "user", "content": "x"}], "max_tokens": tokens, "stream": stream}
    ).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )


async def ask(addresses: Sequence[Address], *, tokens: int = 4, stream: bool = False) -> Outcome:
    """One request. With several addresses the next is tried where a connection is refused, and only then."""
    outcome = Outcome(time.monotonic(), streamed=stream)
    try:
        async with asyncio.timeout(LIMIT_S):
            await _ask(outcome, addresses, request(tokens, stream=stream))
    except TimeoutError:
        outcome.error = f"nothing within {LIMIT_S:g} s"
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    outcome.ended = time.monotonic()
    return outcome


async def _ask(outcome: Outcome, addresses: Sequence[Address], data: bytes) -> None:
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
        raw, parts = Dechunker(), []
        whole = b""
        while True:
            data = await reader.read(65536)
            if not data:
                break
            outcome.first_byte = outcome.first_byte or time.monotonic()
            whole = (whole + data)[-16:]
            parts.append(data if length else raw.feed(data))
        outcome.body = b"".join(parts)
        outcome.complete = len(outcome.body) == int(length[1]) if length else whole.endswith(b"0\r\n\r\n")
    finally:
        writer.close()


@dataclass
class Load:
    """Closed-loop clients: so many at once, each asks again when it was answered, `pause_s` later."""

    addresses: Sequence[Address]
    clients: int
    tokens: int = 4
    stream: bool = False
    pause_s: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)

    async def run(self, *, count: int = 0, until: Callable[[], bool] = lambda: False) -> list[Outcome]:
        """Until `count` requests were asked, or `until` says so."""
        asked = 0

        async def client() -> None:
            nonlocal asked
            while not (until() or (count and asked >= count)):
                asked += 1
                self.outcomes.append(await ask(self.addresses, tokens=self.tokens, stream=self.stream))
                if self.pause_s:
                    await asyncio.sleep(self.pause_s)

        await asyncio.gather(*(client() for _ in range(self.clients)))
        return self.outcomes

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.ok]

    def causes(self) -> str:
        """Of the failures, shortly, for the message of an assertion."""
        return "; ".join(str(outcome) for outcome in self.failed[:5])
