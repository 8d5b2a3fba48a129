"""Replicas of a node: at the parent, in the configuration, and in a tree in which any of them may die."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from hierarchy.config.models import NodeConfig
from hierarchy.errors import NameTaken
from hierarchy.topology.node_config import from_tree
from tests.builders import OPENAI, Table, model, report, site
from tests.cluster import Cluster, Running, chat, models_at, wait_for_model
from tests.support import eventually
from tests.trees import from_data, problems_of


def instance(number: int, *models: Any, **fields: Any) -> dict[str, Any]:
    """A registration of one of several replicas of site-a."""
    url, name = f"http://host-{number}:21001", f"site-a-{number}"
    return site("site-a", *models, url=url, instance=name, path=[name], replica=True, **fields)


def heartbeat(number: int, *models: Any, **fields: Any) -> dict[str, Any]:
    url, name = f"http://host-{number}:21001", f"site-a-{number}"
    return report("site-a", *models, url=url, instance=name, path=[name], **fields)


@pytest.fixture
def table() -> Table:
    return Table()


def test_capacity_counts_once(table: Table) -> None:
    for number in (1, 2, 3):
        table.add(instance(number, model(speed=6, queue_length=9)))
    assert (table.status().speed, table.status().queue_length) == (6, 9)
    assert table.available_names() == {"site-a", "site-a~2", "site-a~3"}
    assert table.receive(heartbeat(2, model(speed=12)))
    assert table.status().speed == 2 + 4 + 2


def test_if_a_replica_dies_the_others_have_its_capacity(table: Table) -> None:
    for number in (1, 2):
        table.add(instance(number, model(speed=6)))
    table.clock.tick(2.0)
    assert table.receive(heartbeat(2, model(speed=6)))
    table.clock.tick(1.5)  # the first sent no report
    table.sweep()
    assert (table.available_names(), table.status().speed) == ({"site-a~2"}, 6)
    table.add(instance(1, model(speed=6), seq=5))
    assert table.status().speed == 6
    assert table.depart("site-a~2", "site-a-2") is not None
    assert (table.available_names(), table.status().speed) == ({"site-a"}, 6)


def test_a_restarted_replica_gets_its_name_again(table: Table) -> None:
    table.add(instance(1))
    table.add(instance(2))
    again = instance(2)
    again["instance"] = "another"
    assert table.add(again).name == "site-a~2"
    assert len(table) == 2


def test_leases_remain_when_a_replica_registers_or_deregisters(table: Table) -> None:
    first = table.add(instance(1, model(queue_length=4)))
    lease = first.lease(first.shares[OPENAI])
    table.add(instance(2, model(queue_length=4)))
    assert first.in_flight == 1
    assert first.load(OPENAI) == 3  # half of the queue, and the lease of this node
    lease.release()
    assert first.load(OPENAI) == 2


def test_another_node_with_the_name_is_refused(table: Table) -> None:
    table.add(instance(1))
    with pytest.raises(NameTaken):
        table.add(site("site-a", url="http://stranger:21001", instance="x"))
    table = Table()
    table.add(site("site-a"))
    with pytest.raises(NameTaken):
        table.add(instance(2))


def test_a_drain_by_name_is_for_all_replicas_including_later_ones(table: Table) -> None:
    table.add(instance(1))
    table.add(instance(2))
    assert table.drain_name("site-a")
    assert table.available_names() == set()
    table.add(instance(3))
    assert table.available_names() == set()
    assert table.drain_name("site-a", False)
    assert len(table.available_names()) == 3
    assert not table.drain_name("unknown")


NODES: dict[str, Any] = {
    "root": {"listen": "127.0.0.1:1001"},
    "root-b": {"listen": "127.0.0.1:1002", "replica_of": "root"},
    "site": {"listen": "127.0.0.1:1003", "parent": "root"},
    "site-b": {"listen": "127.0.0.1:1004", "replica_of": "site"},
}
GPU = {"kind": "vllm", "url": "http://127.0.0.1:8000", "parent": "site"}


def test_one_file_configures_all_replicas() -> None:
    tree = from_data({"nodes": NODES, "engines": {"gpu": GPU}})
    assert problems_of(tree) == []
    configs: dict[str, NodeConfig] = {name: from_tree(tree, name) for name in NODES}
    roots = ("http://127.0.0.1:1001", "http://127.0.0.1:1002")
    assert [configs[name].parents for name in NODES] == [(), (), roots, roots]
    assert [configs[name].replica_of for name in NODES] == ["root", "root", "site", "site"]
    assert [len(configs[name].engines) for name in NODES] == [0, 0, 1, 1]


def test_parents_can_be_listed_instead() -> None:
    nodes = {"a": {"listen": "127.0.0.1:1001"}, "b": {"listen": "127.0.0.1:1002"}}
    nodes["site"] = {"listen": "127.0.0.1:1003", "parent": ["a", "b"]}  # type: ignore[dict-item]
    tree = from_data({"nodes": nodes, "engines": {"gpu": GPU}})
    assert problems_of(tree) == []
    assert from_tree(tree, "site").parents == ("http://127.0.0.1:1001", "http://127.0.0.1:1002")
    assert from_tree(tree, "site").replica_of is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"replica_of": "sit"}, 'unknown node "sit"; did you mean "site"?'),
        ({"replica_of": "site-b"}, 'unknown node "site-b"'),
        ({"replica_of": "root-b"}, '"root-b" is itself a replica; write `replica_of: root`'),
    ],
)
def test_invalid_replicas_are_named(change: dict[str, Any], expected: str) -> None:
    nodes = {**NODES, "site-b": {**NODES["site-b"], **change}}
    assert any(expected in problem for problem in problems_of(from_data({"nodes": nodes, "engines": {"gpu": GPU}})))


def test_an_engine_that_each_replica_would_start_is_refused() -> None:
    engine = {"kind": "simulated", "parent": "site"}
    (problem,) = problems_of(from_data({"nodes": NODES, "engines": {"gpu": engine}}))
    assert "each of site, site-b would start its own copy" in problem


def has_children(node: Running, count: int) -> bool:
    """Whether that many children, replicas counted separately, are registered there."""
    return len(node.node.registry) == count


def has_speed(node: Running, speed: float) -> bool:
    """Whether the node reports this speed."""
    return node.node.registry.status().speed == speed


def test_a_tree_with_two_replicas_of_each_node_survives_a_death_of_each(cluster: Cluster) -> None:
    engine = cluster.engine()
    roots = [cluster.node("root") for _ in range(2)]
    parents = tuple(root.url for root in roots)
    sites = [cluster.node("site", parents=parents, engines=(engine.url,), replica_of="site") for _ in range(2)]
    for root in roots:
        eventually(partial(has_children, root, 2), "both replicas to register")
        wait_for_model(root.url, "simulated")
        assert models_at(root.url) == {"simulated": ["site/site-1"]}
        eventually(partial(has_speed, root, 1.0), "both replicas to find the engine")
    for _ in range(20):
        response = chat(roots[0].url)
        assert (response.status_code, response.headers["x-hierarchy-path"]) == (200, "site/site-1")
    cluster.stop(roots[1])
    cluster.stop(sites[0])
    assert [chat(roots[0].url).status_code for _ in range(5)] == [200] * 5
    eventually(partial(has_speed, roots[0], 1.0), "the other replica to have the capacity of both")
