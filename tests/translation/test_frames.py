"""Frames and server-sent events are split the same way however the reads cut them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.translation import frames as frames_module
from hierarchy.translation import sse as sse_module
from hierarchy.translation.frames import FrameSplitter
from hierarchy.translation.response import BadEngineResponse
from hierarchy.translation.sse import EventSplitter
from tests.translation.support import cuts, pieces

STREAM = b": hi\n\nevent: error\ndata: 1\ndata:  2\n\ndata:3\r\n\r\nid: 4\n\ndata: 5\r\rdata: 6\n\n"
EVENTS = [(b"error", b"1\n 2"), (b"", b"3"), (b"", b"5"), (b"", b"6")]


@given(cuts)
def test_events_do_not_depend_on_the_reads(sizes: list[int]) -> None:
    splitter = EventSplitter()
    assert [event for data in pieces(STREAM, sizes) for event in splitter.feed(data)] == EVENTS


@given(st.lists(st.binary(min_size=1, max_size=9).filter(lambda b: b"\0" not in b and b.strip()), max_size=5), cuts)
def test_each_read_gives_its_newest_frame(sent: list[bytes], sizes: list[int]) -> None:
    stream = b"\0".join([*sent, b"", b""]) + b"rest"
    splitter = FrameSplitter()
    found = [frame for data in pieces(stream, sizes) if (frame := splitter.feed(data))]
    assert found == [frame for frame in found if frame in sent]
    assert found[-1:] == sent[-1:]
    assert (splitter.end(), splitter.end()) == (b"rest", b"")


@pytest.mark.parametrize("stream", ["events", "frames"])
def test_an_endless_event_or_frame_is_refused(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    monkeypatch.setattr(sse_module, "MAX_BUFFERED_BYTES", 10)
    monkeypatch.setattr(frames_module, "MAX_BUFFERED_BYTES", 10)
    with pytest.raises(BadEngineResponse, match="more than 10 bytes"):
        list(EventSplitter().feed(b"data: 12345")) if stream == "events" else FrameSplitter().feed(b"12345678901")
