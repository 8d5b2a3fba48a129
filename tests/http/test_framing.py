"""The framing trackers as pure functions of bytes: cut at every byte, and compared with httptools."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hierarchy.http.framing import (
    LAST_CHUNK,
    MAX_FILL,
    MAX_LINE,
    MAX_TRAILERS,
    Chunked,
    Dechunker,
    Framing,
    FramingError,
    Length,
    UntilClose,
    chunk,
)
from tests.relay.raw import ReceivedResponse, event

sizes = st.lists(st.integers(0, 60), max_size=12)
extensions = st.sampled_from([b"", b";a", b";a=b", b';a="b c"'])
trailers = st.sampled_from([b"", b"x: y\r\n", b"x:\r\ny: z\xff\r\n"])


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    """Well-formed chunked bodies, with extensions, trailers, upper-case and padded sizes."""
    body = b""
    for data in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5)):
        size = draw(st.sampled_from(["%x", "%X", "%04x"])) % len(data)
        body += size.encode() + draw(extensions) + b"\r\n" + data + b"\r\n"
    return body + b"0" + draw(extensions) + b"\r\n" + draw(trailers) + b"\r\n"


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces of these sizes, then the rest."""
    pieces = []
    for size in cuts:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


def feed(framing: Framing, pieces: list[bytes]) -> tuple[int, bool]:
    """How many bytes belong to the body, and whether it has ended."""
    taken = 0
    for piece in pieces:
        size = framing.feed(piece)
        taken += size
        if framing.done:
            break
        assert size == len(piece)
    return taken, framing.done


def parsed(body: bytes) -> ReceivedResponse:
    """A chunked body as httptools parses it. Raises HttpParserError."""
    response = ReceivedResponse()
    parser = httptools.HttpResponseParser(response)
    parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    parser.feed_data(body)
    return response


@given(chunked_bodies(), st.binary(max_size=30), sizes)
@example(b"5\r\nhello\r\n0\r\n\r\n", b"HTTP/1.1", [1] * 20)
def test_a_chunked_body_ends_at_the_same_byte_however_it_is_split(body: bytes, surplus: bytes, cuts: list[int]) -> None:
    assert feed(Chunked(), [body + surplus]) == (len(body), True)
    assert feed(Chunked(), split(body + surplus, cuts)) == (len(body), True)
    assert parsed(body).complete


@given(st.integers(0, 200), st.binary(min_size=200, max_size=230), sizes)
def test_a_length_ends_at_the_same_byte_however_it_is_split(length: int, data: bytes, cuts: list[int]) -> None:
    assert feed(Length(length), [data]) == (length, True)
    assert feed(Length(length), split(data, cuts)) == (length, True)


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_until_close_takes_everything_and_never_ends_by_itself(pieces: list[bytes]) -> None:
    assert feed(UntilClose(), pieces) == (sum(map(len, pieces)), False)


BROKEN = [
    b"\r\n",
    b"x\r\n",
    b"0x5\r\n",
    b"-5\r\n",
    b"+5\r\n",
    b" 5\r\n",
    b"5 \r\n",
    b"5 ;a\r\n",
    b"5\t\r\n",
    b"5_0\r\n",
    b"5;\r\n",
    b"5;a b\r\n",
    b"5;a=\r\n",
    b'5;a="b\r\n',
    b'5;a="b"c\r\n',
    b"5; a\r\n",
    b"5;a\x00\r\n",
    b"5;a\rb\r\n",
    b"1234567890abcdef\r\n",
    b"5\nhello\r\n",
    b"5;a\nhello\r\n",
    b"5\r\nhello\n",
    b"5\r\nhelloX",
    b"5\r\nhello\rX",
    b"0\r\nno field\r\n",
    b"0\r\n: x\r\n",
    b"0\r\nContent-Length: 0\r\n",
    b"0\r\nx: y\r\ntransfer-encoding: chunked\r\n",
    b"0\r\n x: y\r\n",
    b"0\r\nx: y\r\n z\r\n",
    b"0\r\nx: y\n",
    b"0\r\nx: \x00\r\n",
    b"0\r\n\n",
    b"0\r\n\rx\r\n",
    b"f" * (MAX_LINE + 1),
    b"5;" + b"a" * MAX_LINE + b"\r\n",
    b"0\r\nx: " + b"a" * MAX_LINE,
    b"0\r\n" + b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * (MAX_TRAILERS // 40),
]


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:16]))
@pytest.mark.parametrize("before", [b"", b"3\r\nabc\r\n"], ids=["first", "later"])
def test_bad_chunk_framing_is_refused_whole_and_byte_by_byte(body: bytes, before: bytes) -> None:
    with pytest.raises(FramingError):
        Chunked().feed(before + body)
    tracker = Chunked()
    with pytest.raises(FramingError):
        feed(tracker, [bytes([byte]) for byte in before + body])


@given(st.data(), sizes)
def test_bytes_before_an_error_are_valid_and_can_be_completed(data: st.DataObject, cuts: list[int]) -> None:
    good = b"".join(chunk(part) for part in data.draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4)))
    broken = good + data.draw(st.sampled_from([b"x\r\n", b"5\r\nhelloX", b"\r\n", b"5;\r\n"]))
    tracker, sent = Chunked(), b""
    for piece in split(broken, cuts):
        try:
            sent += piece[: tracker.feed(piece)]
        except FramingError as error:
            sent += piece[: error.valid_bytes]
            break
    assert broken.startswith(sent)
    tail = tracker.completion(b"\n")
    if tail is not None:
        assert parsed(sent + tail + LAST_CHUNK).complete


@st.composite
def odd_bodies(draw: st.DrawFn) -> bytes:
    """Chunked bodies with a few bytes replaced, added or lost."""
    body = bytearray(draw(chunked_bodies()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body) - 1))
        body[at : at + draw(st.integers(0, 1))] = draw(
            st.sampled_from([b"", b"\r", b"\n", b" ", b"0", b"x", b"\0", b";"])
        )
    return bytes(body)


@given(odd_bodies())
def test_httptools_accepts_what_the_tracker_accepts(body: bytes) -> None:
    tracker = Chunked()
    try:
        size = tracker.feed(body)
    except FramingError:
        return
    if tracker.done:
        assert parsed(body[:size]).complete


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=4))
def test_a_body_in_chunks(parts: list[bytes]) -> None:
    body = b"".join(map(chunk, parts)) + LAST_CHUNK
    assert feed(Chunked(), [body]) == (len(body), True)
    assert (parsed(body).complete, parsed(body).body) == (True, b"".join(parts))


STREAM = b"".join(chunk(event(text)) for text in ('{"delta":"a"}', '{"delta":"b' + "x" * 300 + '"}')) + b"000\r\n\r\n"
LAST = STREAM.index(b"\r\n000\r\n\r\n") + 2


@pytest.mark.parametrize("cut", range(len(STREAM)))
def test_a_stream_cut_anywhere_can_be_completed_and_ended_in_valid_framing(cut: int) -> None:
    tracker = Chunked()
    tracker.feed(STREAM[:cut])
    tail = tracker.completion(b"\n")
    if cut > LAST + 3:  # nothing can follow the size of the last chunk, so only a reset can say that it was cut
        assert tail is None
        return
    assert tail is not None
    response = parsed(STREAM[:cut] + tail + chunk(b"\n\nevent: error\ndata: {}\n\n") + LAST_CHUNK)
    assert response.complete
    events = [part.strip() for part in response.body.split(b"\n\n") if part.strip()]
    assert events[-1] == b"event: error\ndata: {}"
    whole = parsed(STREAM).body.split(b"\n\n")
    for sent in events[:-2]:
        assert sent in whole  # only the event that was cut may differ from what the engine sent


@pytest.mark.parametrize(
    ("cut", "tail"),
    [
        (b"5;a", None),  # inside an extension
        (b"5;a\r", b"\n.....\r\n"),
        (b"fffff\r\n", b"." * 0xFFFFF + b"\r\n"),
        (b"fffffff\r\n", None),  # more than MAX_FILL is missing
        (b"fffffff", None),
        (b"5\r\nhel", b"..\r\n"),
        (b"5\r\nhello", b"\r\n"),
        (b"5\r\nhello\r", b"\n"),
        (b"5\r\nhello\r\n", b""),
        (b"", b""),
        (b"0", b"1\r\n.\r\n"),
        (b"0\r", None),
        (b"0\r\n", None),
        (b"0\r\nx: y", None),
    ],
)
def test_completion_of_chunked(cut: bytes, tail: bytes | None) -> None:
    tracker = Chunked()
    tracker.feed(cut)
    assert tracker.completion(b".") == tail
    assert tail is None or len(tail) <= MAX_FILL + 2


def test_completion_of_the_other_framings() -> None:
    length = Length(5)
    length.feed(b"hel")
    assert length.completion(b".") is None
    length.feed(b"lo")
    assert length.completion(b".") == b""
    assert UntilClose().completion(b".") == b""


@given(chunked_bodies(), sizes)
def test_a_dechunker_returns_the_data_unchanged(body: bytes, cuts: list[int]) -> None:
    dechunker = Dechunker()
    assert b"".join(map(dechunker.feed, split(body, cuts))) == parsed(body).body
