"""Fair turns: nothing is lost, nothing changes its place, and nobody waits for more than a piece of each other one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.relay.held_bytes import HeldBytes
from hierarchy.relay.turns import FEW, FULL, MAX_PIECE, PIECE, STOP, TURN_S, Reading, Turns
from tests.clocks import Clock
from tests.relay.raw import FakeTransport
from tests.support import eventually_async


class Owner:
    """A connection. cost_s: of each byte. count: what `take` returns."""

    def __init__(self, room: Room, cost_s: float = 0.0, count: int = FEW + 1) -> None:
        self.room = room
        self.cost_s, self.count = cost_s, count
        self.pieces: list[bytes] = []
        self.transport = FakeTransport()
        self.reading = Reading(room.turns, self.take)
        self.reading.transport = self.transport

    def take(self, data: bytes) -> int:
        self.pieces.append(data)
        self.room.order.append(self)
        self.room.clock.tick(self.cost_s * len(data))
        return self.count

    @property
    def taken(self) -> bytes:
        return b"".join(self.pieces)


class Room:
    """Turns with a clock that only work moves, and a loop that a test turns."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.soon: list[Callable[[], None]] = []
        self.held = HeldBytes()
        self.turns = Turns(self.held, self.clock, self.soon.append)
        self.order: list[Owner] = []  # whose pieces were processed

    def turn(self) -> None:
        """One turn of the loop."""
        soon, self.soon[:] = list(self.soon), []
        for work in soon:
            work()

    def settle(self) -> int:
        """Turn the loop until nothing is due. Returns how often."""
        count = 0
        while self.soon:
            self.turn()
            count += 1
            assert count < 100_000, self.turns
        return count


def test_a_read_for_which_there_is_time_is_processed_at_once() -> None:
    room = Room()
    owner = Owner(room)
    owner.reading.receive(b"x" * 3 * PIECE)
    assert owner.taken == b"x" * 3 * PIECE
    assert owner.transport.reading
    assert room.settle() == 1  # which ends the time of this turn
    assert room.held.total == 0


def test_a_connection_that_used_up_its_time_reads_no_more_until_its_rest_is_processed() -> None:
    room = Room()
    owner = Owner(room, cost_s=TURN_S / PIECE)
    owner.reading.receive(bytes(range(256)) * 40)
    assert owner.pieces == [(bytes(range(256)) * 40)[:PIECE]]
    assert not owner.transport.reading
    assert room.held.total == owner.reading.rest == 40 * 256 - PIECE
    room.settle()
    assert owner.taken == bytes(range(256)) * 40
    assert owner.transport.reading
    assert room.held.total == 0


def test_all_reads_of_a_turn_share_its_time() -> None:
    """libuv reads many connections, and each up to 32 times, before the loop turns."""
    room = Room()
    owners = [Owner(room, cost_s=TURN_S / PIECE) for _ in range(5)]
    for owner in owners:
        owner.reading.receive(b"x" * 2 * PIECE)
    assert [len(owner.pieces) for owner in owners] == [1, 0, 0, 0, 0]
    began = room.clock()
    room.turn()
    assert room.clock() - began <= 2 * TURN_S
    room.settle()
    assert all(owner.taken == b"x" * 2 * PIECE for owner in owners)


def test_the_queue_gives_each_connection_one_piece_at_a_time() -> None:
    room = Room()
    greedy, others = Owner(room, cost_s=TURN_S / PIECE), [Owner(room, cost_s=TURN_S / PIECE) for _ in range(3)]
    for owner in (greedy, *others):
        owner.reading.receive(b"x" * (PIECE * (20 if owner is greedy else 2)))
    room.settle()
    last = max(index for index, owner in enumerate(room.order) if owner is not greedy)
    assert room.order[: last + 1].count(greedy) <= 4
    assert len(room.order) == 20 + 2 * 3


def test_a_piece_with_little_in_it_is_followed_by_a_longer_one() -> None:
    room = Room()
    owner = Owner(room, count=FEW)
    owner.reading.receive(b"x" * 10 * MAX_PIECE)
    assert max(map(len, owner.pieces)) == MAX_PIECE
    assert all(after <= 2 * before for before, after in pairwise(map(len, owner.pieces)))
    room.settle()
    owner.count = FEW + 1
    owner.pieces.clear()
    owner.reading.receive(b"x" * 10 * MAX_PIECE)
    room.settle()
    assert set(map(len, owner.pieces)) == {PIECE}


def test_a_read_that_filled_the_buffer_lets_others_have_their_turn() -> None:
    room = Room()
    owner = Owner(room)
    owner.reading.receive(b"x" * FULL)
    assert owner.taken == b"x" * FULL
    assert not owner.transport.reading
    room.settle()
    assert owner.transport.reading


def test_what_is_not_wanted_any_more_is_dropped() -> None:
    room = Room()
    owner = Owner(room, count=STOP)
    owner.reading.receive(b"x" * 10 * PIECE)
    room.settle()
    assert len(owner.pieces) == 1
    assert owner.reading.rest == room.held.total == 0


def test_a_connection_whose_owner_paused_it_processes_nothing() -> None:
    room = Room()
    owner = Owner(room, cost_s=TURN_S / PIECE)
    owner.reading.receive(b"x" * 4 * PIECE)
    owner.reading.pause_reading()
    room.settle()
    assert len(owner.pieces) == 1
    assert not owner.transport.reading
    owner.reading.resume_reading()
    room.settle()
    assert owner.taken == b"x" * 4 * PIECE
    assert owner.transport.reading


def test_a_connection_that_ends_while_it_waits_gives_back_what_it_kept() -> None:
    room = Room()
    owner, other = Owner(room, cost_s=TURN_S / PIECE), Owner(room)
    owner.reading.receive(b"x" * 4 * PIECE)
    other.reading.receive(b"y" * 4 * PIECE)
    owner.reading.close()
    room.settle()
    assert len(owner.pieces) == 1
    assert other.taken == b"y" * 4 * PIECE
    assert room.held.total == 0
    assert room.turns.waiting == 0


def test_an_error_in_one_connection_does_not_stop_the_others() -> None:
    room = Room()
    evil, good = Owner(room, cost_s=TURN_S / PIECE), Owner(room)
    for owner in (evil, good):
        owner.reading.receive(b"x" * 4 * PIECE)
    evil.take = None  # type: ignore[assignment]
    evil.reading._take = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        room.turn()
    room.settle()
    assert good.taken == b"x" * 4 * PIECE


reads = st.lists(st.one_of(st.integers(1, 3 * PIECE), st.just(FULL)), min_size=1, max_size=6)
events = st.lists(st.sampled_from(["turn", "pause", "resume", "read", "read", "yield"]), max_size=20)


@given(
    st.lists(reads, min_size=1, max_size=3),
    events,
    st.sampled_from([0.0, TURN_S / PIECE / 3, TURN_S / PIECE, TURN_S]),
    st.sampled_from([0, FEW, FEW + 1]),
)
def test_every_byte_is_processed_once_and_in_order(
    sizes: list[list[int]], script: list[str], cost_s: float, count: int
) -> None:
    """However a client's bytes are split into reads, however long they take, and whoever pauses in between."""
    room = Room()
    owners = [Owner(room, cost_s, count) for _ in sizes]
    sent = [b"" for _ in sizes]
    due = [list(mine) for mine in sizes]

    def read(index: int) -> None:
        if due[index] and owners[index].transport.reading:
            size = due[index].pop(0)
            data = bytes((len(sent[index]) + at) % 251 for at in range(size))
            sent[index] += data
            owners[index].reading.receive(data)

    for step, event in enumerate(script):
        index = step % len(owners)
        owner = owners[index]
        if event == "turn":
            room.turn()
        elif event == "pause":
            owner.reading.pause_reading()
        elif event == "resume":
            owner.reading.resume_reading()
        elif event == "yield":
            owner.reading.yield_turn()
        else:
            read(index)
        assert room.held.total >= 0
    for index, owner in enumerate(owners):
        owner.reading.resume_reading()
        while due[index]:
            room.settle()
            assert owner.transport.reading, owner.reading
            read(index)
    room.settle()
    assert [owner.taken for owner in owners] == sent
    assert all(owner.transport.reading for owner in owners)
    assert room.held.total == 0
    assert room.turns.waiting == 0


class Sink(asyncio.Protocol):
    """Takes what comes in turns."""

    def __init__(self, turns: Turns) -> None:
        self.data = bytearray()
        self.reading = Reading(turns, self.take)
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.reading.transport = cast(asyncio.Transport, transport)

    def take(self, data: bytes) -> int:
        self.data += data
        return FEW + 1

    def data_received(self, data: bytes) -> None:
        self.reading.yield_turn()
        self.reading.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reading.close()
        self.ended = True


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_turns_hold_on_both_event_loops(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """What a client sends while its connection is paused comes later, and in order."""
    sent = bytes(range(256)) * 8192

    async def main() -> None:
        turns = Turns()
        sinks: list[Sink] = []

        def sink() -> Sink:
            sinks.append(Sink(turns))
            return sinks[-1]

        server = await asyncio.get_running_loop().create_server(sink, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(sent)
        await writer.drain()
        await eventually_async(lambda: sinks and len(sinks[0].data) == len(sent), "all of it")
        assert sinks[0].data == sent
        writer.close()
        await eventually_async(lambda: sinks[0].ended, "the end")
        assert turns.held.total == 0
        server.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
