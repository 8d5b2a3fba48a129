"""What a node holds is given back at every end of a request: afterwards the count is zero, and so is each key's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from hierarchy.relay.turns import FULL, PIECE
from hierarchy.security.caller import Caller
from tests.relay.memory import Link, MemoryLane, Receive, Send, in_memory, statuses
from tests.relay.raw import HEALTH, SSE_HEAD, chunk, event, post, post_head

LONG = b'{"model":"m","a":"' + b"x" * 3 * PIECE + b'"}'
KEY = Caller("alice")
End = Callable[[MemoryLane, Link], Awaitable[None]]


async def answered(memory: MemoryLane, client: Link) -> None:
    client.feed(post(LONG))
    memory.respond_all()
    assert statuses(client) == [200]


async def answered_at_last(memory: MemoryLane, client: Link) -> None:
    """In a body whose end comes late."""
    data = post(LONG)
    client.feed(data[:-9])
    assert memory.lane.held.total > 2 * PIECE
    client.feed(data[-9:])
    memory.respond_all()
    assert statuses(client) == [200]


async def in_chunks(memory: MemoryLane, client: Link) -> None:
    client.feed(post_head(b"transfer-encoding: chunked"))
    for at in range(0, len(LONG), 7):
        client.feed(chunk(LONG[at : at + 7]))
    client.feed(b"0\r\n\r\n")
    await memory.turn()
    memory.respond_all()
    assert statuses(client) == [200]


async def refused(memory: MemoryLane, client: Link) -> None:
    client.feed(post(b'{"model":"unknown","a":"' + b"x" * 3 * PIECE + b'"}'))
    assert statuses(client) == [404]


async def refused_while_it_came(memory: MemoryLane, client: Link) -> None:
    client.feed(post_head(b"transfer-encoding: chunked") + chunk(LONG) + b"no chunk\r\n")
    await memory.turn()
    assert statuses(client) == [400]


async def client_gone_while_it_sent(memory: MemoryLane, client: Link) -> None:
    client.feed(post(LONG)[:-9])
    assert memory.lane.held.total > 2 * PIECE
    client.lose()


async def client_gone_while_it_waited(memory: MemoryLane, client: Link) -> None:
    client.feed(post(LONG))
    assert memory.leases == 1
    client.lose()


async def cut(memory: MemoryLane, client: Link) -> None:
    client.feed(post(LONG))
    memory.upstreams[0].feed(SSE_HEAD + chunk(event("a")))
    memory.upstreams[0].lose()


async def failed_without_another_child(memory: MemoryLane, client: Link) -> None:
    client.feed(post(LONG))
    memory.upstreams[0].lose(ConnectionResetError())


async def timeout(memory: MemoryLane, client: Link) -> None:
    client.feed(post(LONG)[:-9])
    memory.sweep(memory.lane.settings.receive_timeout_s + 1)
    assert statuses(client) == [408]


async def pipelined(memory: MemoryLane, client: Link) -> None:
    client.feed(post(LONG) * 3)
    client.lose()


async def a_read_that_waits_for_its_turn(memory: MemoryLane, client: Link) -> None:
    client.feed(post(b"{}") * (2 * FULL // 100))
    client.lose()


async def shut_down(memory: MemoryLane, client: Link) -> None:
    """While its connection is paused, since many requests wait on it."""
    client.feed(post(LONG) * 20)
    assert not client.transport.reading
    memory.lane.drain()
    client.protocol.shutdown()
    memory.clients.cut_all()
    for _ in range(10):  # on a busy machine the first request may not have had its turn: it is given a second
        await memory.turn()
        memory.sweep(0.5)
        client.settle()
    assert client.lost


async def for_the_app(memory: MemoryLane, client: Link) -> None:
    client.feed(post_head(b"content-length: %d" % (3 * FULL), path=b"/register_worker") + b"x" * 2 * FULL)
    await memory.turn()
    client.lose()


async def slowly_read(memory: MemoryLane, client: Link) -> None:
    client.feed(post(LONG))
    client.transport.unsent = 12345
    client.protocol.pause_writing()
    assert memory.lane.held.total >= 12345
    client.lose()


ENDS: list[End] = [
    answered,
    answered_at_last,
    in_chunks,
    refused,
    refused_while_it_came,
    client_gone_while_it_sent,
    client_gone_while_it_waited,
    cut,
    failed_without_another_child,
    timeout,
    pipelined,
    a_read_that_waits_for_its_turn,
    shut_down,
    for_the_app,
    slowly_read,
]


async def waiting_app(scope: object, receive: Receive, send: Send) -> None:
    """Reads until its client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("caller", [Caller(""), KEY], ids=["without a key", "with a key"])
def test_all_is_given_back(end: End, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    @in_memory
    async def run() -> None:
        memory = MemoryLane(app=waiting_app)
        monkeypatch.setattr(type(memory.lane.access), "identify_caller", lambda self, fields: caller)
        client = memory.connect()
        await end(memory, client)
        client.lose()
        for _ in range(3):
            await memory.turn()
            memory.sweep(0.5)
        assert repr(memory.lane.held).startswith("<HeldBytes 0 of ")
        assert repr(memory.lane.held).endswith(" 0 keys>")
        assert memory.lane.turns.waiting == 0
        assert memory.leases == 0

    run()


@in_memory
async def test_a_node_that_holds_as_much_as_it_may_says_so_and_takes_more_later() -> None:
    memory = MemoryLane()
    memory.lane.held.limit = 10 * PIECE
    first, second = memory.connect(), memory.connect()
    first.feed(post(b'{"a":"' + b"x" * 9 * PIECE)[:-1])
    second.feed(post(LONG))
    assert statuses(second) == [503]
    assert b"memory_full" in second.transport.output
    first.lose()
    third = memory.connect()
    third.feed(post(LONG))
    memory.respond_all()
    assert statuses(third) == [200]
    third.feed(HEALTH)
    assert memory.lane.held.total == 0
