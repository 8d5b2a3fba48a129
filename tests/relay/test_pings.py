"""Pings to nodes that are dialled: they measure the round trip, and a child that gives none loses nothing."""

from __future__ import annotations

from typing import Any

import httpx

from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.relay.pings import EVERY_S, LATE_S, Pings
from hierarchy.relay.upstream.connection import Upstream
from hierarchy.relay.upstream.pool import Pool
from hierarchy.wire.messages import Identity
from tests.builders import registration, site
from tests.clocks import Clock
from tests.cluster import CALM, Cluster, Running, wait_for_model
from tests.relay.delay import Delay
from tests.relay.raw import FakeTransport, http_response
from tests.support import eventually


def child_of(parent: Running, name: str) -> Child:
    return parent.node.registry.children[name]


def test_the_round_trip_to_each_kind_of_child_is_measured_and_shown(cluster: Cluster) -> None:
    root = cluster.node("root", settings=CALM)
    engine = cluster.engine()
    direct = cluster.node("direct", settings=CALM, engines=(engine.url,), parents=(root.url,))
    with Delay(cluster, root.port, 0.03) as far:
        cluster.node("reverse", settings=CALM, engines=(engine.url,), parents=(far.url,), link="reverse")
        wait_for_model(root.url, "simulated", 2)
        eventually(lambda: all(child.round_trip.is_known for child in root.node.registry), "round trips")
        assert child_of(direct, "direct-1").round_trip.is_known
        assert child_of(root, "reverse").round_trip.seconds >= 0.06
        assert child_of(root, "reverse").round_trip.counted >= 0.06
        shown = httpx.get(f"{root.url}/tree").json()["children"]
        assert shown["reverse"]["round_trip_s"] >= 0.06
        assert shown["direct"]["round_trip_s"] < shown["reverse"]["round_trip_s"]
        metrics = httpx.get(f"{root.url}/metrics").text
        assert 'hierarchy_child_round_trip_seconds{child="reverse"} 0.' in metrics


class Rig:
    """A parent with one child node, whose connection is in memory."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.registry = Registry(Identity("root", "http://root:1", "root-1"), self.clock)
        self.child = self.registry.register(registration(site()))
        self.child.interval_s = 1000.0
        self.lane_pool = Pool(self.child, 3.0, None, self.clock)
        self.upstream = Upstream(self.lane_pool)
        self.transport = FakeTransport()
        self.upstream.connection_made(self.transport)
        self.lane_pool.idle_s = self.upstream.idle_s = 1000.0
        self.lane_pool.put(self.upstream)
        self.spawned: list[str] = []
        self.pings = Pings(self, self.clock)  # type: ignore[arg-type]

    def pool(self, _: Child) -> Any:
        return self.lane_pool

    def spawn(self, work: Any, name: str) -> None:
        work.close()
        self.spawned.append(name)

    def sweep(self, seconds: float = 0.5) -> None:
        self.clock.tick(seconds)
        self.pings.sweep()

    @property
    def sent(self) -> int:
        return bytes(self.transport.output).count(b"POST /link HTTP/1.1\r\nhost: site-a:21001\r\n")


def test_a_ping_goes_over_an_idle_connection_now_and_then() -> None:
    rig = Rig()
    rig.sweep()
    assert (rig.sent, list(rig.lane_pool.idle)) == (1, [])
    rig.clock.tick(0.04)
    rig.upstream.data_received(http_response(b"{}"))
    assert list(rig.lane_pool.idle) == [rig.upstream]
    assert abs(rig.child.round_trip.seconds - 0.04) < 1e-9
    for _ in range(6):
        rig.sweep(1.5)
    assert rig.sent == 1
    rig.sweep(EVERY_S)
    assert rig.sent == 2
    assert not rig.spawned


def test_a_ping_without_a_response_is_no_sample_and_costs_its_connection_alone() -> None:
    rig = Rig()
    rig.sweep()
    rig.sweep(LATE_S)
    assert rig.transport.is_closing()
    assert not rig.child.round_trip.is_known
    assert rig.child.available(rig.clock())
    rig.sweep(EVERY_S)
    assert rig.spawned == ["ping to site-a"]


def test_a_response_before_the_ping_is_no_sample() -> None:
    rig = Rig()
    rig.upstream.data_received(http_response(b"{}"))
    rig.sweep()
    assert rig.transport.is_closing()
    assert not rig.child.round_trip.is_known


def test_children_that_are_gone_are_forgotten() -> None:
    rig = Rig()
    rig.sweep()
    rig.registry.remove("site-a")
    rig.sweep(LATE_S)
    assert "children=0 open=0" in repr(rig.pings)
