"""A tree in which each node has a replica, and any of them may die."""

from __future__ import annotations

from functools import partial

from tests.cluster import Cluster, Running, chat, models_at, wait_for_model
from tests.support import eventually


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
