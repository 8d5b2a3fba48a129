"""What one loss takes away, against what is really left when the point is cut out of the graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.config.models import load
from hierarchy.topology.graph import build
from hierarchy.topology.risks import Engines, Point, Risks, name_of
from tests.builders import UNTIMED
from tests.trees import CONFIGS


def graph_of(edges: Iterable[tuple[str, str]], models: dict[str, tuple[float, tuple[str, ...]]]) -> nx.DiGraph:
    """`models` makes engines: name -> (speed, models)."""
    graph = nx.DiGraph()
    graph.add_node("root")
    graph.add_edges_from(edges)
    for name, at in graph.nodes.items():
        speed, names = models.get(name, (0.0, ()))
        at.update(kind="engine" if name in models else "node", speed=speed, models=names)
    return graph


@st.composite
def graphs(draw: st.DrawFn) -> nx.DiGraph:
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


def left(graph: nx.DiGraph, points: Iterable[Point]) -> set[str]:
    """The engines that the root still reaches without these."""
    rest = graph.copy()
    for point in points:
        if len(point) == 1:
            rest.remove_nodes_from(point)
        else:
            rest.remove_edges_from([point])
    return {name for name in nx.descendants(rest, "root") if graph.nodes[name]["kind"] == "engine"}


def served(graph: nx.DiGraph, engines: Iterable[str]) -> set[str]:
    return {model for name in engines for model in graph.nodes[name]["models"]}


@UNTIMED
@given(graphs())
def test_a_risk_is_what_is_lost_when_the_point_is_cut_out(graph: nx.DiGraph) -> None:
    risks = Risks(graph, "root")
    everything = left(graph, [])
    found = risks.all()
    for risk in found:
        for point in risk.points:
            rest = left(graph, [point])
            lost = everything - rest
            assert risk.engines == risks.sum(lost)
            assert set(risk.models) == served(graph, everything) - served(graph, rest)
            assert set(risk.weakened) == served(graph, lost) & served(graph, rest)
    told = {point for risk in found for point in risk.points}
    assert len(told) == sum(len(risk.points) for risk in found)
    inner: list[Point] = [(name,) for name, at in graph.nodes.items() if at["kind"] == "node" and name != "root"]
    inner += [edge for edge in graph.edges if graph.nodes[edge[1]]["kind"] == "node"]
    assert {point for point in inner if left(graph, [point]) != everything} == told


@UNTIMED
@given(graphs())
def test_a_bottleneck_is_what_no_other_single_point_is_worse_than(graph: nx.DiGraph) -> None:
    risks = Risks(graph, "root")
    names: list[Point] = [(name,) for name in graph if name != "root"]
    for weak in risks.bottlenecks():
        serving = {name for name in left(graph, []) if weak.model in graph.nodes[name]["models"]}
        rests = {point: serving & left(graph, [point]) for point in names}
        assert set(weak.alone) == {point for point, rest in rests.items() if not rest}
        if not weak.alone:
            assert weak.worst is not None
            least = min(risks.sum(rest).speed for rest in rests.values())
            assert risks.sum(rests[weak.worst]).speed == weak.left.speed == pytest.approx(least)


def test_three_tiers() -> None:
    risks = Risks(build(load(CONFIGS / "three-tiers.yaml").config), "root")
    first = risks.all()[0]
    assert (first.points, first.engines.count, first.models) == ((("oslo",), ("root", "oslo")), 3, ("sim-code",))
    assert first.weakened == ("sim-large", "sim-small")
    weak = {item.model: item for item in risks.bottlenecks()}
    assert weak["sim-code"].alone == (("oslo",), ("oslo-2",), ("oslo-2-b",))
    assert (weak["sim-small"].worst, weak["sim-small"].left) == (("berlin",), Engines(1, 1.0, 0.2))


def test_two_ways_to_a_node_take_the_risk_from_each() -> None:
    edges = [("root", "a"), ("root", "b"), ("a", "rack"), ("b", "rack"), ("rack", "gpu")]
    graph = graph_of(edges, {"gpu": (1.0, ("m",))})
    (risk,) = Risks(graph, "root").all()
    assert risk.points == (("rack",),)
    assert [name_of(point) for point in (("rack",), ("a", "rack"))] == ["node rack", "link a - rack"]


def test_a_part_of_a_tree_is_judged_from_its_own_top() -> None:
    graph = build(load(CONFIGS / "three-tiers.yaml").config)
    risks = Risks(graph, "berlin")
    assert risks.models == ["sim-large", "sim-small"]
    assert risks.all()[0].points == (("berlin-2",), ("berlin", "berlin-2"))
