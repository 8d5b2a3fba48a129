"""Trees in which an engine may be dead: requests go where another engine can take them, and stay where none can."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from hierarchy.registry.child import Child
from hierarchy.wire.status import ModelKey
from tests.cluster import QUICK, Cluster, Running, chat, counters, wait_for_model
from tests.support import eventually

#: engines are probed once at the start, so that a test alone says which are suspect
RARELY = QUICK.model_copy(update={"probe_interval_s": 60.0, "report_interval_s": 60.0, "dispatch": "round_robin"})
KEY: ModelKey = ("simulated", "openai")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture(scope="module")
def engines() -> Iterator[Cluster]:
    """A loop of their own for engines that freeze."""
    with Cluster() as running:
        yield running


def call(cluster: Cluster, work: Callable[[], None]) -> None:
    async def run() -> None:
        work()

    cluster.call(run())


def child_of(node: Running) -> Child:
    (child,) = [child for child in node.node.registry if not child.is_node]
    return child


def suspect(cluster: Cluster, node: Running) -> None:
    call(cluster, lambda: node.node.registry.suspect(child_of(node), "a probe is late"))


def outcomes(node: Running) -> dict[str, dict[str, int]]:
    """The attempts of a node, by child and outcome."""
    return {child: dict(share.outcomes) for (_, _, child), share in node.node.metrics.shares.items()}


class Two:
    """A root with an engine of its own, and a site with another."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.engines = [cluster.engine(), cluster.engine()]
        self.root = cluster.node("root", engines=(self.engines[0].url,), settings=RARELY)
        self.site = cluster.node("site", parents=(self.root.url,), engines=(self.engines[1].url,), settings=RARELY)
        wait_for_model(self.root.url, "simulated", 2)

    def ignorant_root(self) -> None:
        """The root has not heard yet that the site's engine is suspect."""
        registry = self.root.node.registry
        eventually(lambda: registry.children["site"].shares[KEY].avoid, "the report")

        def forget() -> None:
            registry.children["site"].shares[KEY].avoid = False
            registry.generation += 1

        call(self.cluster, forget)


@pytest.fixture
def two(cluster: Cluster) -> Two:
    return Two(cluster)


def served(engines: list[Running]) -> list[int]:
    return [counters(engine)["served"] for engine in engines]


def test_a_site_gives_back_what_another_engine_can_take_and_nobody_notices(two: Two) -> None:
    suspect(two.cluster, two.site)
    two.ignorant_root()
    assert [chat(two.root.url).status_code for _ in range(6)] == [200] * 6
    assert served(two.engines) == [6, 0]
    metrics = two.root.node.metrics
    assert set(outcomes(two.root)["site"]) == {"moved"}
    assert metrics.retries == 0  # it costs nothing
    assert (metrics.whole, metrics.endings) == (6, {})


def test_what_was_given_back_is_served_there_after_all_if_the_other_engine_fails(two: Two) -> None:
    httpx.post(f"{two.engines[0].url}/simulated/faults", json={"reset": True}).raise_for_status()
    suspect(two.cluster, two.site)
    two.ignorant_root()
    assert [chat(two.root.url).status_code for _ in range(4)] == [200] * 4
    assert served(two.engines) == [0, 4]


def test_a_parent_avoids_a_site_whose_engines_are_all_suspect(two: Two) -> None:
    suspect(two.cluster, two.site)
    eventually(lambda: two.root.node.registry.children["site"].shares[KEY].avoid, "the report")
    assert [chat(two.root.url).status_code for _ in range(6)] == [200] * 6
    assert outcomes(two.root).get("site", {}) == {}


@pytest.mark.parametrize("level", ["rack", "site", "root"])
def test_the_only_engine_of_a_model_freezes_for_3_5_s_and_every_request_is_answered(
    cluster: Cluster, engines: Cluster, level: str
) -> None:
    """Asked at the rack, at the site and at the root: the same answer, though probes of the engine are late."""
    engine = engines.engine()
    root = cluster.node("root")
    site = cluster.node("site", parents=(root.url,))
    rack = cluster.node("rack", parents=(site.url,), engines=(engine.url,))
    wait_for_model(root.url, "simulated")
    asked = {"rack": rack, "site": site, "root": root}[level]
    httpx.post(f"{engine.url}/simulated/faults", json={"freeze_s": 3.5, "count": 1}).raise_for_status()
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: chat(asked.url).status_code, range(8)))
    assert responses == [200] * 8
    assert asked.node.metrics.endings == {}
