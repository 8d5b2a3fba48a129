"""The child's end of reverse links: how many it dials, how fast, when it gives one up.

The test controls the dials and the clock.
"""

from __future__ import annotations

import asyncio
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from hierarchy.http.link_handshake import PING
from hierarchy.relay.upstream.links import LEAST_IDLE, SILENT_S
from hierarchy.uplink import links as module
from hierarchy.uplink.link_handshake import RefusedError
from hierarchy.uplink.links import MAX_DIALS, SPREAD_S, LinkReserve, link_factory
from hierarchy.wire.messages import Accepted, Identity
from tests.relay.memory import Link as Connection
from tests.relay.memory import MemoryLane, in_memory, statuses
from tests.relay.raw import FakeTransport, http_response, post

SLOW = Accepted("root", "root-1", link="reverse", links_per_s=2.0)
FAST = Accepted("root", "root-1", link="reverse", links_per_s=400.0)


class Rig:
    """A reserve whose dials succeed, fail or hang as the test requires. dials: those that hang."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory = MemoryLane()
        self.again = 0
        self.dials: list[asyncio.Future[int]] = []
        self.dial_count = 0  # dials, ever
        self.links: list[Connection] = []
        uplink: Any = SimpleNamespace(parent="http://root", secret=b"s", register_again=self.register_again)
        self.serve = link_factory(self.memory.lane, self.memory.clients, self.memory.config, self.memory.state)
        self.reserve = LinkReserve(
            uplink, Identity("site", "http://site", "site-1"), self.serve, 1e6,
            tls=None, proxy=None, clock=lambda: self.memory.now, rng=Random(7),
        )  # fmt: skip
        monkeypatch.setattr(self.reserve, "_open_link", self.knock)

    def register_again(self) -> None:
        self.again += 1

    async def knock(self) -> int:
        self.dial_count += 1
        dial: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.dials.append(dial)
        return await dial

    async def succeed(self, count: int = 10**6, wanted: int = 0) -> None:
        """Let so many of the dials that hang become links."""
        await self.memory.turn()
        for dial in self.dials[:count]:
            link = Connection(
                link_factory(self.memory.lane, self.memory.clients, self.memory.config, self.memory.state)(self.reserve)
            )
            self.links.append(link)
            dial.set_result(wanted)
        del self.dials[:count]
        await self.memory.turn()

    async def fail(self, error: Exception) -> None:
        await self.memory.turn()
        for dial in self.dials:
            dial.set_exception(error)
        self.dials.clear()
        await self.memory.turn()

    async def sweep(self, seconds: float) -> None:
        for _ in range(round(2 * seconds)):
            self.memory.now += 0.5
            self.reserve.sweep()
            await self.memory.turn()


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


async def filled(patch: pytest.MonkeyPatch) -> Rig:
    """A rig whose reserve is full, at a parent that allows many links a second."""
    rig = Rig(patch)
    rig.reserve.accepted(FAST)
    await rig.succeed()
    await rig.sweep(0.5)
    await rig.succeed()
    return rig


def run(work: Any) -> None:
    in_memory(work)()


def test_the_first_link_is_dialled_at_once_and_the_others_at_the_parent_s_pace(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(patch)
        rig.reserve.accepted(SLOW)
        await rig.succeed()
        assert len(rig.links) == 1
        for second in range(1, 4):
            await rig.sweep(1)
            await rig.succeed()
            assert len(rig.links) == 1 + 2 * second
        await rig.sweep(10)
        await rig.succeed()
        assert len(rig.links) == LEAST_IDLE
        await rig.sweep(100)
        assert not rig.dials

    run(work)


def test_a_slow_pace_of_the_parent_does_not_delay_requests(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(patch)
        rig.reserve.accepted(SLOW)
        await rig.succeed()
        rig.links[0].feed(post())  # it is taken: all that is missing is dialled now
        await rig.memory.turn()
        assert len(rig.dials) == LEAST_IDLE
        await rig.succeed(1, wanted=1000)  # more wait there
        assert rig.reserve.dialling == MAX_DIALS
        await rig.succeed(100, wanted=500)
        assert rig.reserve.dialling == MAX_DIALS
        await rig.succeed(200, wanted=20)
        assert rig.reserve.dialling <= MAX_DIALS
        await rig.succeed(wanted=0)
        assert not rig.dials
        assert rig.reserve.idle >= LEAST_IDLE

    run(work)


def test_requests_that_wait_at_registration_get_a_link_each(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(patch)
        rig.reserve.accepted(Accepted("root", "root-1", link="reverse", links_per_s=2.0, wanted=30))
        await rig.memory.turn()
        assert len(rig.dials) == 30

    run(work)


def test_busy_links_are_counted_until_their_response_is_complete_and_pings_are_not(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(patch)
        rig.reserve.accepted(FAST)
        await rig.succeed()
        link = rig.links[0]
        for _ in range(3):
            link.feed(PING)
            assert rig.reserve.busy == 0
            link.feed(post())
            assert rig.reserve.busy == 1
            rig.memory.respond_all()
            assert rig.reserve.busy == 0
        assert statuses(link) == [200, 200] * 3
        link.feed(post(b"{}"))  # refused
        assert rig.reserve.busy == 0
        link.feed(post())
        link.lose()
        assert (rig.reserve.busy, link.protocol in rig.reserve.links) == (0, False)
        assert rig.memory.leases == 0

    run(work)


def test_a_reserve_of_a_quarter_of_the_busy_ones(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(patch)
        for _ in range(200):
            rig.memory.add_upstream()
        rig.reserve.accepted(FAST)
        for _ in range(20):
            await rig.succeed()
            for link in rig.links:
                if link.protocol.is_idle and rig.reserve.busy < 100:
                    link.feed(post())
        await rig.succeed()
        assert (rig.reserve.busy, rig.reserve.idle) == (100, 25)

    run(work)


def test_an_idle_link_without_pings_is_dropped_within_12_s_and_one_with_pings_is_kept(
    patch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        rig = Rig(patch)
        rig.reserve.accepted(FAST)
        await rig.succeed()
        heard, unheard = rig.links[0], rig.links[1]
        for tick in range(1, 61):
            rig.memory.sweep(0.5)
            if tick % 10 == 0:
                heard.feed(PING)
            if tick == 2 * SILENT_S - 1:
                assert not unheard.transport.is_closing()
        assert unheard.transport.state == "aborted"
        assert not heard.transport.is_closing()
        assert SILENT_S + 2 * 0.5 <= 12

    run(work)


def test_a_busy_link_may_be_silent_for_as_long_as_its_engine_is(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(patch)
        rig.reserve.accepted(FAST)
        await rig.succeed()
        link = rig.links[0]
        link.feed(post())
        rig.memory.sweep(100.0)
        assert not link.transport.is_closing()
        rig.memory.respond_all()
        assert statuses(link) == [200]

    run(work)


def test_failed_dials_are_repeated_with_growing_delays_and_jitter(
    patch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        rig = Rig(patch)
        rig.reserve.accepted(FAST)
        gaps = []
        for _ in range(8):
            await rig.fail(ConnectionRefusedError(111, "Connection refused"))
            began = rig.memory.now
            while not rig.dials and rig.memory.now < began + 20:
                rig.memory.now += 0.05
                rig.reserve.sweep()
                await rig.memory.turn()
            gaps.append(rig.memory.now - began)
        assert 0.1 <= gaps[0] <= 0.3
        assert 2.5 <= gaps[-1] <= 5.1
        assert len({round(gap, 2) for gap in gaps[-3:]}) > 1  # not in step
        assert caplog.text.count("cannot open a link to http://root: Connection refused") == 1  # once, not all night
        await rig.succeed()
        assert rig.links

    run(work)


@pytest.mark.parametrize("status", [403, 404])
def test_a_parent_that_does_not_know_this_node_is_registered_with_again(patch: pytest.MonkeyPatch, status: int) -> None:
    async def work() -> None:
        rig = Rig(patch)
        rig.reserve.accepted(FAST)
        await rig.fail(RefusedError(status, "no"))
        assert rig.again
        await rig.sweep(20)
        assert not rig.dials
        rig.reserve.accepted(FAST)
        await rig.memory.turn()
        assert rig.dials

    run(work)


def test_lost_links_are_replaced_after_a_random_time(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(patch)
        rig.reserve.accepted(FAST)
        while len(rig.links) < LEAST_IDLE:
            await rig.succeed()
            await rig.sweep(0.5)
        for link in rig.links:
            link.lose()
        rig.reserve.fill()
        await rig.memory.turn()
        assert not rig.dials
        await rig.sweep(SPREAD_S + 0.5)
        assert rig.dials

    run(work)


def test_links_of_a_former_instance_of_the_parent_are_dropped(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(patch)
        for _ in range(2):
            rig.reserve.accepted(FAST)
            await rig.succeed()
        busy, idle = rig.links[:2]
        busy.feed(post())
        rig.reserve.lost()
        assert not idle.transport.is_closing()  # it may only have been slow
        rig.reserve.accepted(FAST)
        assert not idle.transport.is_closing()
        rig.reserve.accepted(Accepted("root", "root-2", link="reverse", links_per_s=400.0))
        assert idle.transport.state == "aborted"
        assert not busy.transport.is_closing()

    run(work)


def test_no_link_is_dialled_for_a_parent_that_dials_itself_or_is_lost(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(patch)
        rig.reserve.accepted(Accepted("root", "root-1"))
        await rig.sweep(5)
        assert rig.dial_count == 0
        rig.reserve.accepted(FAST)
        await rig.succeed()
        rig.reserve.lost()
        rig.dials.clear()
        dial_count = rig.dial_count
        await rig.sweep(30)
        assert rig.dial_count == dial_count

    run(work)


def test_a_connection_that_turns_into_a_link_after_the_parent_was_lost_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(patch)
        transport: Any = FakeTransport()
        rig.reserve._take(transport, b"")
        assert transport.state == "aborted"
        assert not rig.reserve.links

    run(work)


def test_bytes_after_the_101_are_the_first_request(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(patch)
        rig.reserve.accepted(FAST)

        class Turnable(FakeTransport):
            def set_protocol(self, protocol: Any) -> None:
                self.protocol = protocol

        transport: Any = Turnable()
        rig.reserve._take(transport, post())
        assert rig.reserve.busy == 1
        rig.memory.respond_all(http_response(b"here"))
        assert transport.output.endswith(b"here")
        assert transport.protocol in rig.memory.state.connections  # so that uvicorn's shutdown sees it

    run(work)


def test_shutdown_closes_idle_links_and_lets_busy_ones_finish(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = await filled(patch)
        busy, idle = rig.links[:2]
        busy.feed(post())
        for link in (busy, idle):
            link.protocol.shutdown()
        assert (busy.transport.state, idle.transport.state) == ("open", "closed")
        rig.memory.respond_all()
        assert statuses(busy) == [200]
        assert busy.transport.state == "closed"

    run(work)


def test_a_busy_link_whose_peer_acknowledges_nothing_is_broken(patch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = await filled(patch)
        busy, idle = rig.links[:2]
        busy.feed(post())
        patch.setattr(module, "unacknowledged_s", lambda transport: 9.0)
        await rig.sweep(3)
        assert not busy.transport.is_closing()
        patch.setattr(module, "unacknowledged_s", lambda transport: 10.0)
        await rig.sweep(3)
        assert busy.transport.state == "aborted"
        assert not idle.transport.is_closing()
        assert module.LOOK_S + module.UNACKNOWLEDGED_S <= 12

    run(work)


def test_the_protocol_gets_uvicorns_configuration_and_state() -> None:
    async def work() -> None:
        memory = MemoryLane()
        config, state = uvicorn.Config(memory.config.app, log_config=None), ServerState()
        config.load()
        protocol = link_factory(memory.lane, memory.clients, config, state)(
            cast(LinkReserve, SimpleNamespace(links=set()))
        )
        assert protocol.server_state is state
        assert protocol.config is config

    run(work)
