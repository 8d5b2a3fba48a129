"""What one loss takes away, compared with what is left when the point is removed from the graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.topology.graph import NODE, Member, TreeGraph
from hierarchy.topology.risks import Capacity, Point, Risks, describe
from tests.trees import CONFIGS, load_tree


def graph_of(edges: Iterable[tuple[str, str]], engines: dict[str, tuple[float, tuple[str, ...]]]) -> TreeGraph:
    """edges: (parent, child); engines: name -> (speed, models)."""
    digraph = nx.DiGraph()
    digraph.add_node("root")
    digraph.add_edges_from(edges)
    members = []
    for name in digraph:
        kind = "vllm" if name in engines else NODE
        speed, models = engines.get(name, (0.0, ()))
        parents = tuple(digraph.pred[name])
        members.append(
            Member(key=name, name=name, kind=kind, field=(name,), parents=parents, speed=speed, models=models)
        )
    return TreeGraph(members)


@st.composite
def graphs(draw: st.DrawFn) -> TreeGraph:
    """Up to eight nodes, some with two parents, and engines of up to three models below them."""
    nodes = ["root", *(f"n{n}" for n in range(draw(st.integers(1, 7))))]
    edges = []
    for n, name in enumerate(nodes[1:], 1):
        parents = draw(st.sets(st.sampled_from(nodes[:n]), min_size=1, max_size=2))
        edges += [(parent, name) for parent in sorted(parents)]
    models: dict[str, Any] = {}
    for n in range(draw(st.integers(1, 6))):
        edges.append((draw(st.sampled_from(nodes)), f"e{n}"))
        names = draw(st.sets(st.sampled_from("abc"), max_size=2))
        models[f"e{n}"] = draw(st.sampled_from([0.5, 1.0, 4.0])), tuple(sorted(names))
    return graph_of(edges, models)


def left(graph: TreeGraph, points: Iterable[Point]) -> set[str]:
    """The engines that the root still reaches without these points."""
    rest = graph.digraph.copy()
    for point in points:
        if len(point) == 1:
            rest.remove_nodes_from(point)
        else:
            rest.remove_edges_from([point])
    return set(nx.descendants(rest, "root")) & graph.engines.keys()


def served(graph: TreeGraph, engines: Iterable[str]) -> set[str]:
    return {model for name in engines for model in graph.members[name].models}


@given(graphs())
def test_a_risk_is_what_is_lost_when_the_point_is_removed(graph: TreeGraph) -> None:
    risks = Risks(graph, "root")
    everything = left(graph, [])
    found = risks.all()
    for risk in found:
        for point in risk.points:
            rest = left(graph, [point])
            lost = everything - rest
            assert risk.lost == risks.capacity(lost)
            assert set(risk.lost_models) == served(graph, everything) - served(graph, rest)
            assert set(risk.weakened_models) == served(graph, lost) & served(graph, rest)
    risky = {point for risk in found for point in risk.points}
    assert len(risky) == sum(len(risk.points) for risk in found)
    inner: list[Point] = [(name,) for name in graph.nodes if name != "root"]
    inner += [(parent.key, child.key) for parent, child in graph.edges if child.is_node]
    assert {point for point in inner if left(graph, [point]) != everything} == risky


@given(graphs())
def test_no_single_point_is_worse_than_the_bottleneck(graph: TreeGraph) -> None:
    risks = Risks(graph, "root")
    names: list[Point] = [(name,) for name in graph.members if name != "root"]
    for weak in risks.bottlenecks():
        serving = {name for name in left(graph, []) if weak.model in graph.members[name].models}
        rests = {point: serving & left(graph, [point]) for point in names}
        assert set(weak.critical) == {point for point, rest in rests.items() if not rest}
        if not weak.critical:
            assert weak.worst is not None
            least = min(risks.capacity(rest).speed for rest in rests.values())
            assert risks.capacity(rests[weak.worst]).speed == weak.left.speed == pytest.approx(least)


def test_the_risks_of_the_example_with_three_tiers() -> None:
    risks = Risks(load_tree(CONFIGS / "three-tiers.yaml").graph, "root")
    first = risks.all()[0]
    assert (first.points, first.lost.count, first.lost_models) == ((("oslo",), ("root", "oslo")), 3, ("sim-code",))
    assert first.weakened_models == ("sim-large", "sim-small")
    weak = {item.model: item for item in risks.bottlenecks()}
    assert weak["sim-code"].critical == (("oslo",), ("oslo-2",), ("oslo-2-b",))
    assert (weak["sim-small"].worst, weak["sim-small"].left) == (("berlin",), Capacity(1, 1.0, 0.2))


def test_with_two_parents_neither_is_a_risk() -> None:
    edges = [("root", "a"), ("root", "b"), ("a", "rack"), ("b", "rack"), ("rack", "gpu")]
    graph = graph_of(edges, {"gpu": (1.0, ("m",))})
    (risk,) = Risks(graph, "root").all()
    assert risk.points == (("rack",),)
    assert [describe(point) for point in (("rack",), ("a", "rack"))] == ["node rack", "link a - rack"]


def test_the_risks_below_a_node_other_than_the_root() -> None:
    graph = load_tree(CONFIGS / "three-tiers.yaml").graph
    risks = Risks(graph, "berlin")
    assert risks.models == ["sim-large", "sim-small"]
    assert risks.all()[0].points == (("berlin-2",), ("berlin", "berlin-2"))
