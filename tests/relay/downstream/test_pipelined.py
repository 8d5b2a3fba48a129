"""How many requests may wait for the response before theirs."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from hierarchy.relay.downstream.parts import AppRequest
from hierarchy.relay.downstream.pipelined import MAX_WAITING, MAX_WAITING_BYTES, are_too_many, forget_all
from hierarchy.relay.exchange import Exchange
from tests.relay.memory import MemoryLane, in_memory, protocol_of
from tests.relay.raw import post


@pytest.mark.parametrize("count", [0, 1, MAX_WAITING - 1, MAX_WAITING, MAX_WAITING + 1])
def test_their_number_is_limited(count: int) -> None:
    waiting: deque[Any] = deque(AppRequest(None, lambda: None) for _ in range(count))
    assert are_too_many(waiting, None) == (count >= MAX_WAITING)


@in_memory
async def test_the_body_of_the_newest_is_limited_while_it_comes() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post())
    client.feed(post(b" " * (2 * MAX_WAITING_BYTES))[:-1])
    while memory.lane.turns.waiting:
        await memory.turn()
    connection = protocol_of(client).connection
    newest = connection.waiting[0]
    assert are_too_many(connection.waiting, newest)
    assert not are_too_many(connection.waiting, None)
    assert isinstance(newest, Exchange)
    held, size = memory.lane.held.total, newest.request.size
    forget_all(connection.waiting)
    assert not connection.waiting
    assert memory.lane.held.total == held - size
