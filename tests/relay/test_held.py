"""What is held of a response: the bytes as they came, and their content."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.http.promise import MAX_ANSWER, Fate
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.relay.held import MAX_REFUSAL, Held
from tests.relay.raw import chunk

LENGTH = UpstreamResponse(b"HTTP/1.1 422 No\r\ncontent-length: 10000000\r\n\r\n")
CHUNKED = UpstreamResponse(b"HTTP/1.1 422 No\r\ntransfer-encoding: chunked\r\n\r\n")
LAST = b"0\r\n\r\n"


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=6), st.data())
def test_both_forms_are_kept_whatever_the_pieces_are(contents: list[bytes], data: st.DataObject) -> None:
    body = b"".join(map(chunk, contents)) + LAST
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    chunked, plain = Held(CHUNKED, "as_error", pieces[0]), Held(LENGTH, "as_error", pieces[0])
    for piece in pieces[1:]:
        chunked.add(piece)
        plain.add(piece)
    assert (chunked.body, chunked.content) == (body, b"".join(contents))
    assert plain.body == plain.content == body
    assert chunked.size == len(body) + len(chunked.content)
    assert plain.size == len(body)


@pytest.mark.parametrize("fate", get_args(Fate))
def test_a_long_one_is_full(fate: Fate) -> None:
    limit = MAX_ANSWER if fate == "as_events" else MAX_REFUSAL
    held = Held(LENGTH, fate, b"x" * limit)
    assert not held.is_full
    held.add(b"x")
    assert held.is_full


def test_small_pieces_take_no_more_memory_than_large_ones() -> None:
    held = Held(LENGTH, "as_error", b"")
    for _ in range(1000):
        held.add(b"x")
    assert held.size == 1000
    assert repr(held) == "<Held 422 as_error 1000 bytes>"
