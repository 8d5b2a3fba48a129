"""A node as a whole: the engines that it starts, and its gauges."""

from __future__ import annotations

import asyncio
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from hierarchy.config.models import EngineConfig, NodeConfig, SimulatedSpec
from hierarchy.node import CHANGED_AT_ONCE, Node
from hierarchy.relay.evidence import LOST_S, Finding
from hierarchy.runtime import exposition
from hierarchy.runtime.exposition import render
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.builders import registration, rows, site, worker
from tests.clocks import Clock
from tests.cluster import QUICK, Cluster, chat, wait_for_model
from tests.support import eventually


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def config() -> NodeConfig:
    engine = EngineConfig(
        name="gpu", kind="simulated", model="m", speed=2.0, simulated=SimulatedSpec(decode_tokens_per_s=1000, slots=3)
    )
    return NodeConfig(
        name="n", listen=(("127.0.0.1", 0),), advertise="http://127.0.0.1:0", engines=(engine,), settings=QUICK
    )


def test_an_engine_without_a_url_is_started_used_restarted_and_stopped(config: NodeConfig, cluster: Cluster) -> None:
    running = cluster.serve(config)
    node = running.node
    wait_for_model(running.url, "m")
    assert chat(running.url, "m").headers["x-hierarchy-path"] == "gpu"
    share = node.registry.children["gpu"].shares["m", "openai"]
    assert (share.speed, share.slots) == (2.0, 3)
    (process,) = node.engine_manager.processes
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: node.registry.children["gpu"].down, "the node to see that it is down")
    wait_for_model(running.url, "m")
    second = process.pid
    assert second not in (None, first)
    cluster.stop(running)
    assert not alive(second)


def test_the_gauges_show_children_and_uplinks(cluster: Cluster) -> None:
    engine = cluster.engine()
    root = cluster.node("root")
    site = cluster.node("site", parents=(root.url,), engines=(engine.url, "http://127.0.0.1:9"))
    wait_for_model(root.url, "simulated")
    samples = {(name, labels): value for name, labels, value in site.node.gauges()}
    assert samples["hierarchy_child_up", ("site-1", "simulated", "up")] == 1
    assert samples["hierarchy_child_up", ("site-2", "simulated", "down")] == 0
    assert samples["hierarchy_uplink_up", (root.url,)] == 1
    assert samples["hierarchy_requests_in_flight", ("site-1",)] == 0
    text = render(site.node.metrics).decode()
    assert 'hierarchy_child_speed{child="site-1"} 1.0' in text


class Judged:
    """A node with one engine and one node below, and an attempt whose connection the kernel knows to be silent."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.node = Node(NodeConfig(name="n", advertise="http://127.0.0.1:1", settings=QUICK), clock=self.clock)
        message = {"node": "site", "instance": "site-1", "seq": 1, "path": ["site-1"], "models": rows(STATUS)}
        self.child = self.node.registry.register(registration({**worker("http://site:1"), **message}))
        self.lost: list[str] = []

    def judge(self, silent_s: float, *, is_alone: bool = False) -> None:
        lease = SimpleNamespace(share=self.child.shares["m", "openai"])
        attempt: Any = SimpleNamespace(child=self.child, lease=lease, connection_lost=self.lost.append)
        self.node.sweeps.judge(Finding(attempt, silent_s, is_alone))


STATUS = NodeStatus((ModelStatus("m"),), 1.0)


def test_a_node_whose_machine_acknowledges_nothing_and_that_reports_nothing_is_given_up() -> None:
    judged = Judged()
    judged.clock.tick(3.5)
    judged.judge(3.5)
    assert judged.child.is_dead(judged.clock())
    assert judged.lost == []


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_silent_connection_to_a_child_that_can_be_reached_is_given_up_alone_and_later(is_alone: bool) -> None:
    judged = Judged()
    judged.judge(LOST_S - 0.5, is_alone=is_alone)
    assert judged.lost == []
    judged.judge(LOST_S, is_alone=is_alone)
    assert judged.lost == ["lost its connection: nothing was acknowledged on it"]
    assert not judged.child.is_dead(judged.clock())


def test_hundreds_of_engines_are_started_and_retired_in_parts(cluster: Cluster) -> None:
    """Requests that come meanwhile wait for a part of them only."""
    running = cluster.serve(
        NodeConfig(name="n", listen=(("127.0.0.1", 0),), advertise="http://127.0.0.1:0", settings=QUICK)
    )
    node = running.node
    engines = tuple(EngineConfig(name=f"e{number}", kind="openai", url="http://127.0.0.1:9") for number in range(200))

    async def apply(*engines: EngineConfig) -> tuple[list[str], int]:
        change = asyncio.ensure_future(node.apply(node.config.model_copy(update={"engines": engines})))
        steps = 0
        while not change.done():
            steps += 1
            await asyncio.sleep(0)
        return change.result(), steps

    changes, steps = cluster.call(apply(*engines))
    assert changes == [f"engine e{number} added" for number in range(200)]
    assert steps > 200 // CHANGED_AT_ONCE
    changes, steps = cluster.call(apply())
    assert changes == [f"engine e{number} removed" for number in range(200)]
    assert steps > 200 // CHANGED_AT_ONCE
    assert not node.registry.children


def test_children_come_and_go_while_metrics_are_written() -> None:
    judged = Judged()
    registry = judged.node.registry
    pieces = exposition.pieces(judged.node.metrics)
    for number, _ in enumerate(pieces):
        name = f"pod-{number}"
        registry.register(registration(site(name)))
        registry.depart(f"pod-{number - 3}")
        judged.node.metrics.of_share("m", "openai", name).done("ok")
        judged.node.metrics.state_changed(name, "", "up")
    assert number > 20
