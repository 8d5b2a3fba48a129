"""What is fuzzed: a lane in memory, fed with any bytes from a client or from an engine.

`requests` and `responses` raise AssertionError if the lane does something forbidden. To fuzz longer than the tests do:
`python -m tests.relay.fuzz SECONDS`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httptools

from hierarchy.relay.downstream.head_cache import HeadCache
from tests.relay.fuzz import strict
from tests.relay.memory import MemoryLane
from tests.relay.raw import MODEL, OK_BODY, SSE_HEAD, ReceivedResponse, chunk, event, http_response, post

CORPUS = Path(__file__).parent / "corpus"
TOKENS = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b";", b",", b"0", b"1", b"d", b"\xff", b"#", b"\r\n ", b"\r\n\r\n",
    b"content-length: 13\r\n", b"Content-Length: 0\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\n", b"expect: 100-continue\r\n", b"x-hierarchy-auth: a\r\n",
    b"x-hierarchy-seq: 1\r\n", b"host: b\r\n", b"HTTP/1.0", b"HTTP/1.1", b"0\r\n\r\n", b"d\r\n", b'{"model":"m"}',
    b"POST ",
    b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n",
]  # fmt: skip


@dataclass
class Outcome:
    """The result of a stream: bytes to the client, requests to the engine, and the state of the connection."""

    output: bytes
    received: list[bytes]
    state: str

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", self.output)]


async def play(data: bytes, cuts: list[int], seen: HeadCache | None = None) -> Outcome:
    """Feed a client's bytes, split at `cuts`, to a lane whose engine answers every request."""
    memory = MemoryLane()
    if seen is not None:
        memory.clients.heads = seen
    client = memory.connect()
    received: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if begin < end:
            client.feed(data[begin:end])
    quiet = 0
    while quiet < 3:  # the app needs a few turns for each of its responses
        await memory.turn()
        requests_now = memory.respond_all()
        received += requests_now
        quiet = 0 if requests_now else quiet + 1
    outcome = Outcome(client.transport.output, received, client.transport.state)
    client.lose()
    await memory.turn()
    assert memory.leases == 0
    assert not memory.state.tasks
    assert not memory.state.connections
    return outcome


async def requests(data: bytes, cuts: list[int], seen: HeadCache) -> None:
    """A client's bytes: only requests that the strict parser finds reach the engine, however they are split, and
    whatever heads were seen before.
    """
    reading = strict.read(data, MODEL)
    outcome = await play(data, cuts, seen)
    plain = await play(data, [])
    expected = [
        (b"POST %b HTTP/1.1\r\nhost: 127.0.0.1:1\r\n" % target, b"content-length: %d\r\n\r\n%b" % (len(body), body))
        for target, body in reading.requests
    ]
    for which in (outcome, plain):
        assert len(which.received) <= len(expected)
        for received, (start, end) in zip(which.received, expected, strict=False):
            assert received.startswith(start), (received, start)
            assert received.endswith(end), (received, end)
            assert b"\r\nx-hierarchy-" not in received.partition(b"\r\n\r\n")[0].lower()
        if reading.malformed:
            assert which.state != "open", which
            assert 400 <= which.statuses[-1] < 500 or which.state == "closed", which
        if reading.whole and which.state == "open":
            assert len(which.received) == len(expected)
    assert outcome.received == plain.received
    assert outcome.state == plain.state
    assert outcome.statuses == plain.statuses


def _understood(output: bytes) -> ReceivedResponse | None:
    """The first final response in some bytes, if a client can parse them."""
    found = ReceivedResponse()
    parser = httptools.HttpResponseParser(found)
    try:
        parser.feed_data(output)
    except httptools.HttpParserError:
        return None
    found.status = parser.get_status_code()
    return found


async def responses(data: bytes, cuts: list[int]) -> None:
    """An engine's bytes, and its end: a cut response never looks complete, and the connection stays usable."""
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post())
    upstream = memory.upstream
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if begin < end:
            upstream.feed(data[begin:end])
    upstream.settle()
    reused = not upstream.lost and memory.leases == 0
    upstream.lose()
    await memory.turn()
    assert memory.leases == 0
    output, state = client.transport.output, client.transport.state
    sent = _understood(data)
    if state == "aborted":
        return
    got = _understood(output)
    assert got is not None, output
    assert got.complete, output
    own = [name for name, _ in got.fields if name.startswith(b"x-hierarchy-") and name != b"x-hierarchy-path"]
    assert own == [], output  # in the head, or as a trailer
    if got.status == 502:
        assert b"child_failed" in output or b"502" in data
    elif sent is None or not (sent.complete or _ends_with_the_connection(sent)):
        assert b"event: error" in got.body or not reused, output


def _ends_with_the_connection(sent: ReceivedResponse) -> bool:
    return not sent.get(b"content-length") and not sent.get(b"transfer-encoding")


def corpus() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


ANSWERS = [
    http_response(OK_BODY, b"content-type: application/json"),
    SSE_HEAD + chunk(event("a")) + chunk(event("b")) + b"0\r\n\r\n",
    SSE_HEAD + b"5;a=b\r\nda\n\n\n\r\n0\r\nx: y\r\n\r\n",
    SSE_HEAD + chunk(event("a")) + b"0\r\nx-hierarchy-outcome: cut\r\nX-Hierarchy-Retried: 1\r\nx: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + event("a"),
    b"HTTP/1.0 200 OK\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\n" + http_response(),
    b"HTTP/1.1 204 No Content\r\n\r\n",
    http_response(b"x", b"keep-alive: timeout=5, max=100", status=b"500 Oops"),
]


def mutate(rng: Random, seeds: list[bytes]) -> tuple[bytes, list[int]]:
    """One or two seeds with a few mutations, and where to split them."""
    data = bytearray(b"".join(rng.choices(seeds, k=rng.choice([1, 1, 2, 3]))))
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        at = rng.randrange(len(data) + 1)
        what = rng.randrange(5)
        if what == 0:
            data[at : at + rng.randrange(1, 8)] = b""
        elif what == 1:
            data[at:at] = rng.choice(TOKENS)
        elif what == 2 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif what == 3:
            end = min(len(data), at + rng.randrange(1, 60))
            data[at:at] = data[at:end]
        elif at:
            del data[at:]
    return bytes(data), sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 0, 1, 3])))
