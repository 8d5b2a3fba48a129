"""What waits for a client is counted while it is slow, and given back once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.relay.downstream.unread import Unread
from hierarchy.relay.held_bytes import HeldBytes
from tests.relay.raw import FakeTransport


def _unread(held: HeldBytes, size: int = 0) -> tuple[Unread, list[int]]:
    unread, sizes = Unread(held), [size]
    transport = FakeTransport()
    transport.get_write_buffer_size = lambda: sizes[0]  # type: ignore[method-assign]
    unread.transport = transport
    return unread, sizes


@given(st.lists(st.tuples(st.sampled_from(["begin", "end"]), st.integers(0, 1000))))
def test_what_is_counted_is_what_waits_while_the_client_is_slow(steps: list[tuple[str, int]]) -> None:
    held = HeldBytes(500)
    unread, sizes = _unread(held)
    for step, size in steps:
        sizes[0] = size
        if step == "begin":
            assert unread.begin() == (size <= 500)
            assert held.total == size
        else:
            unread.end()
            assert held.total == 0


def test_a_client_has_read_if_less_waits_than_before() -> None:
    unread, sizes = _unread(HeldBytes(), 100)
    unread.look()
    assert not unread.has_shrunk()
    sizes[0] = 99
    assert unread.has_shrunk()
    sizes[0] = 200
    assert not unread.has_shrunk()
