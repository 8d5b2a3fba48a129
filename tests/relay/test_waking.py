"""A request for an engine that sleeps waits until it is awake, within its time limits."""

from __future__ import annotations

import asyncio
import json

from hierarchy.http.promise import COMMENT_EVERY_S
from hierarchy.registry.child import Child
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.relay.memory import Link, MemoryLane, in_memory, statuses
from tests.relay.raw import MODEL, post

STREAM = json.dumps({"model": MODEL, "stream": True}).encode()


class Sleeping(MemoryLane):
    """A lane whose engine sleeps until the test answers `woken`: "" for awake, or why it is not."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.now = 1.0
        self.woken: asyncio.Future[str] = self.loop.create_future()
        self.wakes = 0
        self.lane.wake = self.wake
        self.report(asleep=True)

    def report(self, *, asleep: bool) -> None:
        row = ModelStatus(MODEL, load_s=10.0 if asleep else 0.0)
        self.lane.registry.report(self.child, NodeStatus((row,), 1.0, asleep=asleep, wakes=asleep))

    async def wake(self, child: Child) -> str:
        assert child is self.child
        self.wakes += 1
        return await asyncio.shield(self.woken)

    async def awake(self) -> None:
        self.report(asleep=False)
        self.woken.set_result("")
        await self.turn()

    def ask(self, body: bytes = b"") -> Link:
        client = self.connect()
        client.feed(post(body) if body else post())
        return client


@in_memory
async def test_it_is_sent_when_the_engine_is_awake() -> None:
    lane = Sleeping()
    client = lane.ask()
    await lane.turn()
    assert (lane.wakes, lane.requests(), lane.leases) == (1, [], 1)
    await lane.awake()
    assert len(lane.respond_all()) == 1
    assert statuses(client) == [200]
    assert lane.leases == 0


@in_memory
async def test_a_stream_gets_comments_meanwhile() -> None:
    lane = Sleeping()
    client = lane.ask(STREAM)
    await lane.turn()
    for count in (1, 2, 3):
        lane.sweep(COMMENT_EVERY_S + 0.1)
        assert client.transport.output.count(b"\n: ") + client.transport.output.count(b"\n:\n") >= count
    lane.add_upstream()  # the idle one is too old by now
    await lane.awake()
    assert len(lane.requests()) == 1


@in_memory
async def test_it_waits_no_longer_than_for_a_first_byte() -> None:
    lane = Sleeping(first_byte_timeout_s=40.0)
    client = lane.ask()
    await lane.turn()
    for _ in range(3):
        lane.sweep(13.0)
        assert statuses(client) == []
    lane.sweep(2.0)
    assert statuses(client) == [504]
    assert b"e was not awake within 40 s" in client.transport.output
    assert lane.leases == 0
    await lane.awake()
    assert lane.requests() == []
    assert repr(lane.child.shares[MODEL, "openai"].failures) == "None"  # it is not to blame


@in_memory
async def test_a_limit_on_the_whole_request_holds_for_the_wait() -> None:
    lane = Sleeping(total_timeout_s=5.0)
    client = lane.ask()
    await lane.turn()
    lane.sweep(4.9)
    assert statuses(client) == []
    lane.sweep(0.2)
    assert statuses(client) == [504]


@in_memory
async def test_a_client_that_leaves_gives_its_place_back() -> None:
    lane = Sleeping()
    client = lane.ask()
    await lane.turn()
    client.lose()
    assert lane.leases == 0
    await lane.awake()
    assert lane.requests() == []


@in_memory
async def test_an_engine_that_does_not_wake_up_is_503_with_the_reason() -> None:
    lane = Sleeping()
    client = lane.ask()
    await lane.turn()
    lane.woken.set_result("could not be woken up: POST /wake_up answered 500")
    await lane.turn()
    assert statuses(client) == [503]
    reason = f"model '{MODEL}' is not loaded, and e could not be woken up: POST /wake_up answered 500"
    assert reason.encode() in client.transport.output
    assert lane.leases == 0


@in_memory
async def test_where_one_does_not_wake_up_another_is_tried() -> None:
    lane = Sleeping()
    client = lane.ask()
    await lane.turn()
    other = lane.lane.registry.declare("f", "http://127.0.0.1:2", "openai")
    lane.lane.registry.report(other, NodeStatus((ModelStatus(MODEL),), 1.0))
    lane.woken.set_result("could not be woken up: no")
    await lane.turn()
    assert (statuses(client), lane.leases, other.in_flight) == ([], 0, 1)
    client.lose()
    assert other.in_flight == 0


@in_memory
async def test_an_engine_that_was_found_awake_meanwhile_is_not_woken_up() -> None:
    lane = Sleeping()
    lane.report(asleep=False)
    lane.ask()
    await lane.turn()
    assert (lane.wakes, len(lane.requests())) == (0, 1)


@in_memory
async def test_the_first_byte_ends_a_load_and_is_measured() -> None:
    lane = Sleeping()
    share = lane.child.shares[MODEL, "openai"]
    row = ModelStatus(MODEL, load_s=10.0)
    lane.lane.registry.report(lane.child, NodeStatus((row,), 1.0))  # awake, and loads its model for the request
    client = lane.ask()
    await lane.turn()
    lane.now += 4.0
    lane.respond_all()
    assert statuses(client) == [200]
    assert (share.load_s, share.load_time) == (0.0, 4.0)
