"""NUL-ended frames and server-sent events, cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.translation import frames as frames_module
from hierarchy.translation import sse as events_module
from hierarchy.translation.frames import Frames
from hierarchy.translation.response import BadReply
from hierarchy.translation.sse import Events
from tests.translation.support import cuts, pieces

EVENTS = b": hi\n\nevent: error\ndata: 1\ndata:  2\n\ndata:3\r\n\r\nid: 4\n\ndata: 5\r\rdata: 6\n\n"
READ = [(b"error", b"1\n 2"), (b"", b"3"), (b"", b"5"), (b"", b"6")]


@given(cuts)
def test_events_are_the_same_however_they_come(sizes: list[int]) -> None:
    splitter = Events()
    assert [event for data in pieces(EVENTS, sizes) for event in splitter.feed(data)] == READ


@given(st.lists(st.binary(min_size=1, max_size=9).filter(lambda b: b"\0" not in b and b.strip()), max_size=5), cuts)
def test_the_newest_frame_of_each_read(said: list[bytes], sizes: list[int]) -> None:
    stream = b"\0".join([*said, b"", b""]) + b"rest"
    splitter = Frames()
    found = [frame for data in pieces(stream, sizes) if (frame := splitter.feed(data))]
    assert found == [frame for frame in found if frame in said]
    assert found[-1:] == said[-1:]
    assert (splitter.end(), splitter.end()) == (b"rest", b"")


@pytest.mark.parametrize("stream", ["events", "frames"])
def test_what_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    monkeypatch.setattr(events_module, "MAX_BYTES", 10)
    monkeypatch.setattr(frames_module, "MAX_BYTES", 10)
    with pytest.raises(BadReply, match="more than 10 bytes"):
        list(Events().feed(b"data: 12345")) if stream == "events" else Frames().feed(b"12345678901")
