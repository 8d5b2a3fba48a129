"""What the loss of one node or of one link takes away, told from a tree's graph alone (see `topology.build`).

Links are made points of their own between their two ends; then what a point takes away is what it dominates: all that
is reached from the root through it alone (Lengauer and Tarjan, "A fast algorithm for finding dominators in a
flowgraph"). That holds as well where a node has several parents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

Point = tuple[str, ...]  #: (node,) or (parent, child), a link


@dataclass(frozen=True)
class Engines:
    """Some engines: how many, their speed, and what part of the whole tree's speed it is."""

    count: int
    speed: float
    part: float


@dataclass(frozen=True)
class Risk:
    """What goes with one point; `points` are those with which the same goes, since one hangs on the other alone.

    models: those that nobody serves without it; weakened: those that some still do.
    """

    points: tuple[Point, ...]
    engines: Engines
    models: tuple[str, ...]
    weakened: tuple[str, ...]


@dataclass(frozen=True)
class Bottleneck:
    """The weakest points of one model, the root left out. engines: all that serve it.

    alone: nodes and engines each of which takes the whole model with it, from the top down. worst: else the one that
    takes most of its speed; left: what then still serves it.
    """

    model: str
    engines: Engines
    alone: tuple[Point, ...]
    worst: Point | None
    left: Engines


def name_of(point: Point) -> str:
    """In words: `node berlin`, `link root - berlin`."""
    return f"node {point[0]}" if len(point) == 1 else f"link {point[0]} - {point[1]}"


class Risks:
    """Of one tree: a graph without problems, or a live one; below `root` only."""

    def __init__(self, graph: nx.DiGraph, root: str) -> None:
        self._at: Mapping[str, Mapping[str, Any]] = graph.nodes
        below = nx.descendants(graph, root)
        self.root = root
        self.engines = [name for name in graph if name in below and self._at[name]["kind"] == "engine"]
        self.models = sorted({model for name in self.engines for model in self._at[name]["models"]})
        self.unnamed = [name for name in self.engines if not self._at[name]["models"]]
        points = nx.DiGraph()
        points.add_node((root,))
        for parent, child in graph.edges:
            if parent in below or parent == root:
                points.add_edge((parent,), (parent, child))
                points.add_edge((parent, child), (child,))
        self._above: dict[Point, Point | None] = dict(nx.immediate_dominators(points, (root,)))
        self._through = {name: list(self._way((name,))) for name in self.engines}
        self._order = {name: index for index, name in enumerate(graph)}

    def _way(self, point: Point) -> Iterator[Point]:
        """The points that one must pass from the root down to `point`, the last first; the root itself left out."""
        while point != (self.root,):
            yield point
            above = self._above[point]
            assert above is not None, "only the root has nothing above it"
            point = above

    def sum(self, engines: Iterable[str], whole: Iterable[str] | None = None) -> Engines:
        """Count and speed of some engines; their part of `whole` is by speed."""
        speeds = [self._at[name]["speed"] for name in engines]
        all_speeds = [self._at[name]["speed"] for name in (self.engines if whole is None else whole)]
        return Engines(len(speeds), sum(speeds), sum(speeds) / sum(all_speeds) if sum(all_speeds) else 0.0)

    def all(self) -> list[Risk]:
        """Every node and link above engines, by what it takes: whole models first, then speed; the root left out."""
        points = {point for name, way in self._through.items() for point in way if name not in point}
        together: dict[Point, list[Point]] = {}
        for point in sorted(points, key=self._rank):
            below = point[-1:]
            together.setdefault(below if below in points and self._above[below] == point else point, []).append(point)
        found = [self._risk(group) for group in together.values()]
        return sorted(found, key=lambda risk: (-len(risk.models), -risk.engines.speed, self._rank(risk.points[0])))

    def _rank(self, point: Point) -> tuple[int, ...]:
        """From the top down, then in the order of the file."""
        return (len(list(self._way(point))), *(self._order[name] for name in point))

    def _risk(self, group: Sequence[Point]) -> Risk:
        lost = [name for name in self.engines if group[0] in self._through[name]]
        models = sorted({model for name in lost for model in self._at[name]["models"]})
        rest = {model for name in self.engines if name not in lost for model in self._at[name]["models"]}
        return Risk(
            tuple(sorted(group, key=len)),
            self.sum(lost),
            tuple(model for model in models if model not in rest),
            tuple(model for model in models if model in rest),
        )

    def bottlenecks(self) -> list[Bottleneck]:
        """One for each model, by name."""
        return [self._bottleneck(model) for model in self.models]

    def _bottleneck(self, model: str) -> Bottleneck:
        serving = [name for name in self.engines if model in self._at[name]["models"]]
        ways = [{point for point in self._through[name] if len(point) == 1} for name in serving]
        alone = sorted(set.intersection(*ways), key=self._rank)
        worst, left = None, serving
        if not alone:
            lost = {point: [name for name in serving if point in self._through[name]] for point in set().union(*ways)}
            worst = min(lost, key=lambda point: (-self.sum(lost[point]).speed, self._rank(point)))
            left = [name for name in serving if name not in lost[worst]]
        return Bottleneck(model, self.sum(serving), tuple(alone), worst, self.sum(left, serving))
