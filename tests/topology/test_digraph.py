"""The questions asked of directed graphs, compared with the answers of networkx."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.topology.digraph import connected, cycles, dominators, longest_path, postorder, reachable

Edges = dict[int, list[int]]
KEYS = st.integers(0, 7)
#: any graph, also with cycles, loops and parts that do not hang together
GRAPHS = st.dictionaries(KEYS, st.lists(KEYS, unique=True), max_size=8).map(
    lambda edges: {key: edges.get(key, []) for key in sorted({*edges, *(to for tos in edges.values() for to in tos)})}
)
ACYCLIC = GRAPHS.map(lambda edges: {key: [to for to in tos if to > key] for key, tos in edges.items()})


def theirs(edges: Edges) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(edges)
    graph.add_edges_from((key, to) for key, tos in edges.items() for to in tos)
    return graph


@given(GRAPHS, KEYS)
def test_what_can_be_reached(edges: Edges, start: int) -> None:
    edges = {**edges, start: edges.get(start, [])}
    assert reachable(edges, start) == nx.descendants(theirs(edges), start)


@given(GRAPHS)
def test_what_is_connected(edges: Edges) -> None:
    assert list(connected(edges)) == list(nx.connected_components(theirs(edges).to_undirected()))


@given(GRAPHS)
def test_each_cycle_exists_and_without_their_last_edges_there_is_none(edges: Edges) -> None:
    left = theirs(edges)
    known = {frozenset(cycle) for cycle in nx.simple_cycles(left)}
    for cycle in cycles(edges):
        assert all(to in edges[key] for key, to in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        assert frozenset(cycle) in known
        left.remove_edge(cycle[-1], cycle[0])  # an edge is reported once
    assert nx.is_directed_acyclic_graph(left)


@given(ACYCLIC)
def test_the_longest_path(edges: Edges) -> None:
    assert longest_path(edges) == nx.dag_longest_path_length(theirs(edges))


@given(ACYCLIC)
def test_what_a_key_leads_to_comes_before_it(edges: Edges) -> None:
    order = postorder(edges, edges)
    assert sorted(order) == sorted(edges)
    assert all(order.index(to) < order.index(key) for key, tos in edges.items() for to in tos)


@given(GRAPHS, KEYS)
def test_dominators(edges: Edges, start: int) -> None:
    edges = {**edges, start: edges.get(start, [])}
    expected = {**dict(nx.immediate_dominators(theirs(edges), start)), start: None}
    assert dominators(edges, start) == expected


@pytest.mark.parametrize("deep", [10_000])
def test_a_deep_graph_needs_no_deep_stack(deep: int) -> None:
    edges = {n: [n + 1] for n in range(deep)}
    assert longest_path({**edges, deep: []}) == len(reachable(edges, 0)) == deep
    assert list(cycles({**edges, deep: [0]})) == [list(range(deep + 1))]
    assert dominators(edges, 0)[deep] == deep - 1
