"""The parent's end of reverse links: who gets one, who waits, what is pinged, closed, dropped. On fake transports."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hierarchy.http.link_handshake import PING
from hierarchy.registry.admission import Claim
from hierarchy.registry.child import NODE, Child
from hierarchy.relay.upstream.connection import Upstream
from hierarchy.relay.upstream.links import LEAST_IDLE, PING_S, PONG_S, SILENT_S, Link, LinkPool, reserve_size
from hierarchy.relay.upstream.pool import NODE_IDLE_S
from tests.builders import registration, site
from tests.clocks import Clock
from tests.relay.memory import Link as Connection
from tests.relay.memory import MemoryLane, in_memory, statuses
from tests.relay.players import RUNS
from tests.relay.raw import HEALTH, FakeTransport, http_response, post
from tests.relay.upstream.test_connection import Handler

PONG = http_response(b"{}")


class Turnable(FakeTransport):
    """A transport whose protocol can be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


class Rig:
    """One child's pool, and links on fake transports."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pool = LinkPool(Child("site", "http://127.0.0.1:1", NODE), 3.0, None, self.clock)

    def add(self) -> Link:
        link = Link(self.pool, self.clock())
        link.connection_made(FakeTransport())
        self.pool.add(link)
        return link

    def sweep(self, seconds: float) -> None:
        """Time passes as it does for a node: half a second between two looks."""
        for _ in range(round(2 * seconds)):
            self.clock.tick(0.5)
            self.pool.sweep()


def written(link: Upstream) -> bytes:
    transport: Any = link.transport
    return bytes(transport.output)


def closed(link: Upstream) -> bool:
    return link.transport.is_closing()


@pytest.mark.parametrize(("busy", "idle"), [(0, 8), (1, 8), (32, 8), (33, 9), (1000, 250)])
def test_the_reserve_is_at_least_8_and_a_quarter_of_the_busy_ones(busy: int, idle: int) -> None:
    assert reserve_size(busy) == idle


# -- waiting -------------------------------------------------------------------------------------------------


@in_memory
async def test_requests_without_a_link_get_the_next_links_in_order() -> None:
    rig = Rig()
    first, second = (asyncio.create_task(rig.pool.dial()) for _ in range(2))
    await asyncio.sleep(0)
    assert (rig.pool.waiting, rig.pool.take(rig.pool.clock())) == (2, None)
    one = rig.add()
    assert await first is one
    assert rig.pool.waiting == 1
    rig.pool.put(one)  # given back: no new one is needed
    assert await second is one
    assert not rig.pool.idle


@in_memory
async def test_a_request_that_timed_out_does_not_keep_a_link() -> None:
    rig = Rig()
    task = asyncio.create_task(rig.pool.dial())
    await asyncio.sleep(0)
    task.cancel()
    link = rig.add()  # in the same turn of the loop: the waiter has it, and can no longer use it
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rig.pool.waiting == 0
    assert rig.pool.take(rig.pool.clock()) is link


@in_memory
async def test_a_request_without_a_link_times_out() -> None:
    pool = LinkPool(Child("site", "http://127.0.0.1:1", NODE), 0.01, None, Clock())
    with pytest.raises(TimeoutError):
        await pool.dial()
    assert pool.waiting == 0


@in_memory
async def test_a_link_that_died_before_its_request_got_it_is_replaced_by_the_next() -> None:
    rig = Rig()
    task = asyncio.create_task(rig.pool.dial())
    await asyncio.sleep(0)
    dead = rig.add()
    dead.transport.close()
    dead.connection_lost(None)
    await asyncio.sleep(0)
    good = rig.add()
    assert await task is good
    assert rig.pool.links == {good}


@in_memory
async def test_requests_that_wait_for_a_child_that_leaves_fail_at_once() -> None:
    rig = Rig()
    task = asyncio.create_task(rig.pool.dial())
    await asyncio.sleep(0)
    rig.pool.close()
    with pytest.raises(ConnectionResetError):
        await task
    with pytest.raises(ConnectionResetError):
        await rig.pool.dial()


def test_links_of_a_former_instance_are_closed_at_once_or_when_they_become_idle() -> None:
    rig = Rig()
    idle, busy = rig.add(), rig.add()
    assert rig.pool.take(rig.pool.clock()) is busy
    rig.pool.renew()
    assert (closed(idle), closed(busy)) == (True, False)
    new = rig.add()
    rig.pool.put(busy)
    assert closed(busy)
    assert rig.pool.take(rig.pool.clock()) is new


# -- pings ---------------------------------------------------------------------------------------------------


def test_idle_links_are_pinged_few_at_a_time_and_those_with_a_pong_stay() -> None:
    rig = Rig()
    links = [rig.add() for _ in range(10)]
    for _ in range(24):  # twelve seconds
        rig.sweep(0.5)
        away = [link for link in links if link.pinging]
        assert len(away) <= 2
        assert all(rig.clock() - link.pinged_at <= PING_S for link in links)
        for link in away:
            assert link not in rig.pool.idle
            link.data_received(PONG)
    assert len(rig.pool.idle) == 10
    assert not any(closed(link) for link in links)
    assert all(written(link).count(PING) >= 2 for link in links)


def test_a_link_without_a_pong_is_found_within_12_s() -> None:
    rig = Rig()
    links = [rig.add() for _ in range(10)]
    rig.sweep(12 - 0.5)  # it may break right after a sweep
    assert all(closed(link) for link in links)
    assert not rig.pool.links
    assert not rig.pool.idle


def test_a_request_is_not_sent_down_a_link_that_is_being_pinged() -> None:
    rig = Rig()
    (link,) = [rig.add()]
    rig.sweep(3)
    assert link.pinging
    assert rig.pool.take(rig.pool.clock()) is None
    link.data_received(PONG)
    assert rig.pool.take(rig.pool.clock()) is link


def test_a_new_child_is_pinged_at_once_and_each_pong_is_a_round_trip() -> None:
    rig = Rig()
    link = rig.add()
    rig.sweep(0.5)
    assert link.pinging
    rig.clock.tick(0.03)
    link.data_received(PONG)
    assert rig.pool.child.round_trip.seconds == pytest.approx(0.03)
    rig.sweep(2)
    assert not link.pinging


def test_a_malformed_pong_breaks_the_link() -> None:
    rig = Rig()
    link = rig.add()
    rig.sweep(3)
    link.data_received(b"HTTP/2 what\r\n\r\n")
    assert closed(link)
    link.connection_lost(None)
    assert not rig.pool.links


def test_a_late_pong_is_noticed_well_before_the_child_gives_up() -> None:
    assert 2 * PING_S < SILENT_S
    assert PING_S + PONG_S + 2 * 0.5 <= 12


# -- shrinking -----------------------------------------------------------------------------------------------


def test_the_surplus_of_a_burst_is_closed_after_a_while_and_the_reserve_stays() -> None:
    rig = Rig()
    links = [rig.add() for _ in range(100)]
    for _ in range(int(2 * NODE_IDLE_S) + 20):
        rig.sweep(0.5)
        for link in links:
            if link.pinging:
                link.data_received(PONG)
        used = rig.pool.take(rig.pool.clock())  # some traffic, which must not keep all of them open
        assert used is not None
        rig.pool.put(used)
    assert sum(not closed(link) for link in links) == LEAST_IDLE
    assert len(rig.pool.links) == LEAST_IDLE


def test_links_in_use_are_not_surplus() -> None:
    rig = Rig()
    links = [rig.add() for _ in range(20)]
    for _ in range(100):
        taken = [rig.pool.take(rig.pool.clock()) for _ in range(20)]
        for link in taken:
            assert link is not None
            rig.pool.put(link)
        rig.sweep(0.5)
        for one in links:
            if one.pinging:
                one.data_received(PONG)
    assert not any(map(closed, links))


class PoolMachine(RuleBasedStateMachine):
    """Links come and go, requests take, wait and give back, time passes: no link in two hands, none forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.rig = Rig()
        self.links: list[Link] = []
        self.held: list[Upstream] = []
        self.waiting: list[asyncio.Task[Upstream]] = []

    def turn(self) -> None:
        for _ in range(4):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        for task in [task for task in self.waiting if task.done()]:
            self.waiting.remove(task)
            if not task.cancelled():
                self.held.append(task.result())

    @rule()
    def comes(self) -> None:
        self.links.append(self.rig.add())
        self.turn()

    @rule()
    def requests(self) -> None:
        link = self.rig.pool.take(self.rig.pool.clock())
        if link is not None:
            self.held.append(link)
        else:
            self.waiting.append(self.loop.create_task(self.rig.pool.dial()))
        self.turn()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def is_done(self, data: st.DataObject) -> None:
        link = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        link.send(Handler(), b"", [], 0)
        link.data_received(http_response(b"x"))
        self.turn()

    @precondition(lambda self: self.waiting)
    @rule()
    def gives_up(self) -> None:
        self.waiting.pop().cancel()
        self.turn()

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def breaks(self, data: st.DataObject) -> None:
        link = self.links.pop(data.draw(st.integers(0, len(self.links) - 1)))
        link.transport.abort()
        link.connection_lost(None)
        self.held = [one for one in self.held if one is not link]
        self.turn()

    @rule(response=st.booleans())
    def time_passes(self, response: bool) -> None:
        self.rig.sweep(2)
        for link in list(self.links):
            if link.pinging and response:
                link.data_received(PONG)
            if closed(link):
                self.links.remove(link)
                link.connection_lost(None)
        self.turn()

    @invariant()
    def every_link_is_in_one_place(self) -> None:
        pool = self.rig.pool
        pinged = {link for link in self.links if link.pinging}
        assert len(set(self.held)) == len(self.held)
        assert set(self.held) | set(pool.idle) | pinged == set(self.links) == pool.links
        assert len(self.held) + len(pool.idle) + len(pinged) == len(self.links)
        assert pool.busy == len(self.held)

    @invariant()
    def nobody_waits_beside_an_idle_link(self) -> None:
        assert not (self.waiting and self.rig.pool.idle)
        assert self.rig.pool.waiting == len(self.waiting)

    def teardown(self) -> None:
        for task in self.waiting:
            task.cancel()
        self.turn()
        self.loop.close()


PoolMachine.TestCase.settings = RUNS
TestPoolMachine = PoolMachine.TestCase


# -- turning a connection round ------------------------------------------------------------------------------

SECRET = "s" * 32


def asking(
    *fields: bytes, node: str = "site", instance: str = "site-1", secret: str = SECRET, method: bytes = b"GET"
) -> bytes:
    head = f"x-hierarchy-node: {node}\r\nx-hierarchy-instance: {instance}\r\nx-hierarchy-auth: {secret}\r\n".encode()
    own = fields or (b"connection: Upgrade", b"upgrade: hierarchy-link/1")
    return b"%b /link HTTP/1.1\r\nhost: a\r\n%b%b\r\n" % (method, b"".join(line + b"\r\n" for line in own), head)


class Parent(MemoryLane):
    """A lane with a child `site` that dials; `knock` is a new connection."""

    def __init__(self) -> None:
        super().__init__(connections=0)
        registry = self.lane.registry
        self.site = registry.register(registration(site("site", secret=SECRET)), claim=Claim(reverse=True))
        registry.register(registration(site("other", secret=SECRET)))

    def knock(self) -> tuple[Connection, Turnable]:
        transport = Turnable()
        protocol = self.protocols(config=self.config, server_state=self.state, app_state={})
        return Connection(protocol, transport), transport


@in_memory
async def test_a_child_s_connection_becomes_a_link_in_its_pool() -> None:
    parent = Parent()
    client, transport = parent.knock()
    client.feed(asking())
    assert transport.output.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nx-hierarchy-wanted: 0\r\n" in transport.output
    assert isinstance(transport.protocol, Link)
    assert list(parent.lane.pool(parent.site).idle) == [transport.protocol]
    assert client.protocol not in parent.state.connections  # no client's any more: shutdown leaves it to the pool


@in_memory
async def test_a_request_for_a_link_may_arrive_in_pieces() -> None:
    for size in (1, 7, 50):
        parent = Parent()
        client, transport = parent.knock()
        data = asking()
        for at in range(0, len(data), size):
            client.feed(data[at : at + size])
        assert transport.output.startswith(b"HTTP/1.1 101 ")


@in_memory
async def test_the_101_contains_how_many_other_requests_wait_for_a_link() -> None:
    parent = Parent()
    pool = parent.lane.pool(parent.site)
    tasks = [asyncio.create_task(pool.dial()) for _ in range(3)]
    await asyncio.sleep(0)
    client, transport = parent.knock()
    client.feed(asking())
    assert b"\r\nx-hierarchy-wanted: 2\r\n" in transport.output
    assert await tasks[0] is transport.protocol
    for task in tasks[1:]:
        task.cancel()


BODY = (b"connection: upgrade", b"upgrade: hierarchy-link/1", b"content-length: 2")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (asking(secret="t" * 32), 403, "not_permitted"),
        (asking(secret=""), 403, "not_permitted"),
        (asking(node="unknown"), 404, "unknown_child"),
        (asking(node="e"), 404, "unknown_child"),  # an engine
        (asking(node="other", instance="other-1"), 404, "unknown_child"),  # it is dialled
        (asking(instance="site-0"), 404, "unknown_child"),  # its former self
        (asking(instance=""), 404, "unknown_child"),
        (asking(node="si\xe9te"), 404, "unknown_child"),
        (asking(b"connection: upgrade", b"upgrade: hierarchy-link/2"), 400, "bad_request"),
        (asking(*BODY) + b"hi", 400, "bad_request"),
        (asking(*BODY[:2], b"transfer-encoding: chunked") + b"0\r\n\r\n", 400, "bad_request"),
        (asking() + b"x", 400, "bad_request"),
        (asking() + HEALTH, 400, "bad_request"),
        (asking(method=b"PUT"), 400, "bad_request"),
        (asking().replace(b"host: a\r\n", b"host: a b\r\n"), 400, "bad_request"),
    ],
)
def test_malformed_requests_for_a_link_are_refused(data: bytes, status: int, code: str) -> None:
    @in_memory
    async def run() -> None:
        parent = Parent()
        client, transport = parent.knock()
        client.feed(data)
        assert statuses(client) == [status]
        assert b'"code": "%b"' % code.encode() in transport.output
        assert b"101 " not in transport.output
        assert b"connection: close" in transport.output
        assert transport.protocol is None
        assert SECRET.encode() not in transport.output
        parent.sweep(10.0)
        assert transport.is_closing()

    run()


@in_memory
async def test_a_request_for_a_link_behind_another_request_is_refused() -> None:
    parent = Parent()
    client, transport = parent.knock()
    parent.add_upstream()
    client.feed(post() + asking())
    parent.respond_all()
    await parent.turn()
    assert statuses(client) == [200, 400]
    assert transport.protocol is None


@in_memory
async def test_other_upgrades_and_other_paths_are_unaffected() -> None:
    parent = Parent()
    client, _ = parent.knock()
    client.feed(asking(b"connection: upgrade", b"upgrade: h2c"))
    client.feed(asking(b"accept: */*"))
    await parent.turn()
    assert statuses(client) == [200, 200]  # the app's


@in_memory
async def test_any_node_answers_a_ping_at_once() -> None:
    parent = Parent()
    client, transport = parent.knock()
    client.feed(PING)
    assert statuses(client) == [200]
    assert transport.output.endswith(b"\r\n\r\n{}")
