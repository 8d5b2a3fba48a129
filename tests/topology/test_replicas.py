"""Replicas in a configuration: `replica_of`, and nodes with several parents."""

from __future__ import annotations

from typing import Any

import pytest

from hierarchy.config.models import NodeConfig
from hierarchy.topology.node_config import from_tree
from tests.trees import from_data, problems_of

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


def test_parents_can_be_listed_instead_of_replicas() -> None:
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
