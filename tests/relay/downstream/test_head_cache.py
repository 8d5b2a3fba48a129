"""Heads that were seen before: remembered only as they were taken, and with the same outcome as parsed ones."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hierarchy.errors import BadRequest
from hierarchy.http.dialect import OPENAI
from hierarchy.http.request_head import RequestHead
from hierarchy.relay.downstream.head_cache import MAX_HEADS, HeadCache, Split, split
from hierarchy.security.caller import ANYONE
from tests.relay.memory import MemoryLane, in_memory
from tests.relay.raw import http_response

BODY = b'{"model":"m"}'
LINE = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\n"


def request(*lines: bytes, body: bytes = BODY) -> bytes:
    return LINE + b"".join(line + b"\r\n" for line in lines) + b"content-length: %d\r\n\r\n%b" % (len(body), body)


def test_split_removes_the_numbers_and_nothing_else() -> None:
    one, two = split(request(b"x: 1")), split(request(b"x: 1", body=BODY + b" " * 990))
    assert one is not None
    assert two is not None
    assert one.key == two.key == LINE + b"x: 1\r\ncontent-length: \r\n\r\n"
    assert (one.length, two.length) == (13, 1003)
    assert one.seq == -1
    assert request(b"x: 1")[one.end :] == BODY


def test_split_finds_a_parents_number_before_the_length() -> None:
    found = split(request(b"x: 1", b"x-hierarchy-seq: 77"))
    assert found is not None
    assert (found.seq, found.length) == (77, 13)
    assert found.key == LINE + b"x: 1\r\nx-hierarchy-seq: \r\ncontent-length: \r\n\r\n"


def test_what_a_prompt_begins_with_is_no_part_of_the_head() -> None:
    limit = b"x-hierarchy-deadline-ms: 5000"
    for further in ([], [limit]):
        plain = split(request(b"x: 1", b"x-hierarchy-seq: 77", *further))
        found = split(request(b"x: 1", b"x-hierarchy-seq: 78", b"x-hierarchy-prefix: 300;AAAAAAAA", *further))
        assert plain is not None
        assert found is not None
        assert found.key == plain.key
        assert (found.seq, found.prefix, found.length, plain.prefix) == (78, b"300;AAAAAAAA", 13, b"")
        assert found.left_ms == plain.left_ms


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.sampled_from([b"", b"300;AAAAAAAA", b"9;" + b"A" * 288])), min_size=1)
)
def test_a_head_repeats_with_or_without_a_prefix(requests: list[tuple[int, bytes]]) -> None:
    last: Split | None = None
    for seq, prefix in requests:
        lines = [b"x: 1", b"x-hierarchy-seq: %d" % seq] + ([b"x-hierarchy-prefix: " + prefix] if prefix else [])
        data = request(*lines)
        if last is None:
            last = split(data)
            assert last is not None
        else:
            assert last.repeats(data)
        assert (last.seq, last.prefix, data[last.end :]) == (seq, prefix, BODY)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        LINE,
        LINE + b"\r\n",
        LINE + b"content-length:5\r\n\r\n",
        LINE + b"content-length: +5\r\n\r\n",
        LINE + b"content-length: 5 \r\n\r\n",
        LINE + b"x-content-length: 5\r\n\r\n",
        LINE + b"content-length: 5\n\r\n\r\n",
        LINE + b"x: %b\r\ncontent-length: 5\r\n\r\n" % (b"y" * 3000),
    ],
)
def test_unusual_heads_are_left_to_the_parser(data: bytes) -> None:
    assert split(data) is None


def test_the_cache_is_bounded() -> None:
    seen = HeadCache()
    head = RequestHead(OPENAI, b"/v1/x", b"", False, True, False, True, b"", "", 0, ANYONE)
    for number in range(3 * MAX_HEADS):
        found = seen.find(request(b"x: %d" % number), None)
        assert found is not None
        seen.add(found, head)
    assert meaning(seen, request(b"x: 0")) is None
    assert meaning(seen, request(b"x: %d" % (3 * MAX_HEADS - 1))) is head
    assert len(seen) <= MAX_HEADS


def meaning(seen: HeadCache, data: bytes, last: Split | None = None) -> RequestHead | None:
    found = seen.find(data, last)
    assert found is not None
    return found.head


FIELDS = st.lists(st.sampled_from([b"x: 1", b"x: 12", b"accept: */*", b"x-hierarchy-seq: 7", b"y: content-length: 3"]))
NUMBERS = st.integers(0, 10**14)


@given(FIELDS, NUMBERS, FIELDS, st.data())
def test_a_head_repeats_another_exactly_if_only_the_numbers_differ(
    fields: list[bytes], length: int, others: list[bytes], data: st.DataObject
) -> None:
    head = LINE + b"".join(b"%b\r\n" % field for field in fields)
    other = LINE + b"".join(b"%b\r\n" % field for field in data.draw(st.sampled_from([fields, others])))
    one = split(head + b"content-length: 5\r\n\r\n")
    again = other + b"content-length: %d\r\n\r\n" % length + BODY
    expected = split(again)
    assert one is not None
    assert expected is not None
    repeats = one.repeats(again)
    assert repeats == (one.key == expected.key)
    if repeats:
        assert (one.seq, one.length, one.end) == (expected.seq, expected.length, expected.end)


@given(st.binary(max_size=40), NUMBERS)
def test_a_head_with_something_else_than_a_number_is_not_a_repetition(junk: bytes, seq: int) -> None:
    assume(not junk[:1].isdigit() or b"\r" not in junk)  # a number after all
    usual = LINE + b"x-hierarchy-seq: %d\r\ncontent-length: %d\r\n\r\n"
    for data in (LINE + b"x-hierarchy-seq: " + junk, LINE + b"x-hierarchy-seq: 1\r\ncontent-length: " + junk):
        one = split(usual % (seq, 13))
        assert one is not None
        assert not one.repeats(data + b"\r\nx: y\r\n\r\n")
        assert not one.repeats(data)


def test_forgotten_heads_are_parsed_again() -> None:
    seen = HeadCache()
    head = RequestHead(OPENAI, b"/v1/x", b"", False, True, False, True, b"", "", 0, ANYONE)
    found = seen.find(request(), None)
    assert found is not None
    seen.add(found, head)
    assert seen.find(request(body=b"longer" + BODY), found) is found
    assert meaning(seen, request()) is head
    seen.forget()
    assert meaning(seen, request(), found) is None
    assert meaning(seen, request()) is None


@in_memory
async def test_a_cached_head_is_forwarded_with_the_new_length() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(request(b"Accept: */*", b"Connection: keep-alive, x-hop", b"x-hop: 1"))
    (first,) = memory.respond_all()
    assert len(memory.clients.heads) == 1
    client.feed(request(b"Accept: */*", b"Connection: keep-alive, x-hop", b"x-hop: 1"))
    (second,) = memory.respond_all()
    assert second == first
    longer = BODY + b" " * 100
    client.feed(request(b"Accept: */*", b"Connection: keep-alive, x-hop", b"x-hop: 1", body=longer))
    (third,) = memory.respond_all()
    assert third == first.replace(b"content-length: 13", b"content-length: 113") + b" " * 100
    assert len(memory.clients.heads) == 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (request(b"expect: 100-continue"), "the client waits for a response to its head"),
        (request(b"connection: close"), "nothing follows on this connection"),
        (request().replace(b"HTTP/1.1", b"HTTP/1.0"), "the same"),
        (request(b"x-hierarchy-auth: s", b"x-hierarchy-seq: 1", b"x: y"), "its number would be remembered with it"),
        (request(b"content-length: 13"), "it is refused"),
        (request(b"transfer-encoding: chunked"), "it is refused"),
        (request() + request(), "what is behind it was parsed with it"),
        (request().replace(b"POST /v1/completions", b"POST /elsewhere"), "it is the app's"),
    ],
)
def test_heads_that_are_not_cached(data: bytes, why: str) -> None:
    @in_memory
    async def play() -> None:
        memory = MemoryLane()
        memory.connect().feed(data)
        assert len(memory.clients.heads) == 0, why

    play()


@in_memory
async def test_a_cached_head_with_too_large_a_body_is_refused_and_the_connection_ends() -> None:
    memory = MemoryLane(max_body_bytes=1024)
    client = memory.connect()
    client.feed(request())
    memory.respond_all()
    client.feed(request(body=BODY + b" " * 2000))
    assert b" 413 " in client.transport.output
    assert client.transport.is_closing()
    assert memory.leases == 0


@in_memory
async def test_a_refusal_in_the_middle_of_a_body_is_not_lost_by_a_reset() -> None:
    memory = MemoryLane(max_body_bytes=1024)
    client = memory.connect()
    client.feed(request())
    memory.respond_all()
    client.feed(request(body=BODY + b" " * 2000)[:-500])
    assert b" 413 " in client.transport.output
    assert client.transport.state != "closed"  # what is still on its way is read and thrown away
    client.feed(b" " * 500)
    memory.sweep(10)
    assert client.transport.is_closing()
    assert memory.leases == 0


@in_memory
async def test_a_local_handler_answers_at_once_and_in_turn() -> None:
    memory = MemoryLane()

    def double(body: bytes, auth: bytes, peer: str) -> bytes:
        if not body.isdigit():
            raise BadRequest("no number")
        return b"%d" % (2 * int(body))

    memory.lane.handlers[b"/double"] = double
    client = memory.connect()
    ask = LINE.replace(b"/v1/completions", b"/double") + b"content-length: 2\r\n\r\n"
    for body in (b"21", b"21", b"no"):
        client.feed(ask + body)
    output = client.transport.output
    assert output.count(b"\r\n\r\n42") == 2
    assert b" 400 " in output
    assert b"no number" in output
    assert memory.requests() == []
    client.transport.written.clear()
    client.feed(request() + ask + b"33")
    assert client.transport.output == b""  # it waits for the answer before it
    memory.respond_all(http_response(b'{"ok":true}'))
    await memory.turn()
    assert client.transport.output.endswith(b"\r\n\r\n66")
    assert not client.transport.is_closing()


@pytest.mark.parametrize("sizes", [(0, 500, 500), (1, 999), (300, 699, 1), (1000,)])
@pytest.mark.parametrize("behind", [b"", request()])
def test_a_body_in_pieces_after_a_cached_head(sizes: tuple[int, ...], behind: bytes) -> None:
    @in_memory
    async def play() -> None:
        memory = MemoryLane()
        client = memory.connect()
        client.feed(request())
        memory.respond_all()
        long = BODY + b" " * (1000 - len(BODY))
        whole = request(body=long)
        at = len(whole) - 1000 + sizes[0]
        client.feed(whole[:at])
        for size in sizes[1:-1]:
            assert memory.requests() == []
            client.feed(whole[at : at + size])
            at += size
        client.feed(whole[at:] + behind)
        (received,) = memory.respond_all()
        assert received.endswith(b"\r\n\r\n" + long)
        await memory.turn()
        assert len(memory.respond_all()) == (1 if behind else 0)
        assert memory.leases == 0

    play()


@in_memory
async def test_a_body_that_does_not_arrive_after_a_cached_head_times_out() -> None:
    memory = MemoryLane(receive_timeout_s=5)
    client = memory.connect()
    client.feed(request())
    memory.respond_all()
    client.transport.written.clear()
    client.feed(request(body=BODY * 2)[:-5])
    memory.sweep(6)
    assert b" 408 " in client.transport.output
    assert memory.requests() == []
    memory.sweep(10)
    assert client.transport.is_closing()
