"""The graph of members: which edges it has, and what is above and below a member."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.topology.graph import NODE, Member, TreeGraph


def member(key: str, *parents: str, kind: str = NODE) -> Member:
    return Member(key=key, name=key, kind=kind, field=("nodes", key), parents=parents)


GRAPH = TreeGraph(
    [
        member("root"),
        member("a", "root"),
        member("b", "root", "a", "missing"),
        member("gpu", "a", "b", kind="vllm"),
        member("odd", "gpu"),
    ]
)


def keys(members: list[Member]) -> list[str]:
    return [member.key for member in members]


def test_only_nodes_that_exist_have_children() -> None:
    edges = [(parent.key, child.key) for parent, child in GRAPH.edges]
    assert edges == [("root", "a"), ("root", "b"), ("a", "b"), ("a", "gpu"), ("b", "gpu")]


def test_members_above_and_below() -> None:
    assert keys(GRAPH.children("a")) == ["b", "gpu"]
    assert keys(GRAPH.parents("b")) == ["root", "a"]
    assert GRAPH.below("root") == {"a", "b", "gpu"}
    assert (GRAPH.depth, len(GRAPH)) == (3, 5)
    assert (list(GRAPH.nodes), list(GRAPH.engines)) == (["root", "a", "b", "odd"], ["gpu"])


def test_a_part_of_the_graph_keeps_its_order_and_edges() -> None:
    part = GRAPH.only({"gpu", "root", "b"})
    assert list(part.members) == ["root", "b", "gpu"]
    assert [(parent.key, child.key) for parent, child in part.edges] == [("root", "b"), ("b", "gpu")]


def test_each_cycle_begins_with_its_first_member() -> None:
    graph = TreeGraph([member("x", "y"), member("y", "z"), member("z", "x", "z")])
    assert sorted(graph.cycles()) == [["x", "z", "y"], ["z"]]


@pytest.mark.parametrize(("kind", "is_node", "noun"), [(NODE, True, "node"), ("vllm", False, "engine")])
def test_the_kind_of_a_member(kind: str, is_node: bool, noun: str) -> None:
    one = member("a", kind=kind)
    assert (one.is_node, one.noun) == (is_node, noun)


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=10))
def test_any_parents_make_a_graph(parents: list[list[int]]) -> None:
    graph = TreeGraph(member(str(n), *map(str, above)) for n, above in enumerate(parents))
    for key, one in graph.members.items():
        assert set(keys(graph.parents(key))) == set(one.parents) & graph.members.keys()
    assert all(cycle[0] == min(cycle) for cycle in graph.cycles())
