"""What the loss of one node or of one link takes away, computed from a tree's graph alone.

Each link is turned into a point of its own between its two ends. What a point takes away is what it dominates: all that
the root reaches only through it (Lengauer and Tarjan, "A fast algorithm for finding dominators in a flowgraph"). That
also holds if a node has several parents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import networkx as nx

from hierarchy.topology.graph import TreeGraph

Point = tuple[str, ...]  #: (node,) or (engine,); or (parent, child), a link


@dataclass(frozen=True)
class Capacity:
    """What some engines amount to."""

    #: number of engines
    count: int
    #: sum of their speeds
    speed: float
    #: that sum as a part of the speed of a larger group, 0 to 1
    part: float


@dataclass(frozen=True)
class Risk:
    """What is lost with one point."""

    #: the point, and those whose loss takes the same away because it depends on them alone
    points: tuple[Point, ...]
    #: of the engines that are lost; its part is of the whole tree
    lost: Capacity
    #: models that no remaining engine serves
    lost_models: tuple[str, ...]
    #: models that fewer engines serve
    weakened_models: tuple[str, ...]


@dataclass(frozen=True)
class Bottleneck:
    """The points, other than the root, on which one model depends most."""

    model: str
    #: of all engines that serve it
    serving: Capacity
    #: nodes and engines whose loss takes the whole model away, from the top down
    critical: tuple[Point, ...]
    #: if there are none: the node or engine whose loss takes most of the model's speed away
    worst: Point | None
    #: what still serves the model without `worst`; its part is of `serving`
    left: Capacity


def describe(point: Point) -> str:
    """`node berlin`, `link root - berlin`."""
    return f"node {point[0]}" if len(point) == 1 else f"link {point[0]} - {point[1]}"


class Risks:
    """The risks of a tree without problems, or of a running one, below its node `root`."""

    def __init__(self, graph: TreeGraph, root: str) -> None:
        below = graph.below(root)
        self.root = root
        #: keys of all engines below the root
        self.engines = [key for key in graph.engines if key in below]
        self._models = {key: frozenset(graph.members[key].models) for key in self.engines}
        self._speed = {key: graph.members[key].speed for key in self.engines}
        #: names of all models that are known to be served
        self.models = sorted(set().union(*self._models.values()))
        #: keys of engines whose models are not known
        self.unknown_models = [key for key in self.engines if not self._models[key]]
        self._dominator = _dominators(graph, root)
        self._dominators = {key: list(self._chain((key,))) for key in self.engines}
        self._order = {key: index for index, key in enumerate(graph.members)}

    def _chain(self, point: Point) -> Iterator[Point]:
        """The point and all that the root reaches it through, from the bottom up, without the root."""
        while point != (self.root,):
            yield point
            above = self._dominator[point]
            assert above is not None, "only the root has no dominator"
            point = above

    def capacity(self, engines: Iterable[str], whole: Iterable[str] | None = None) -> Capacity:
        """Of some engines; their part is of `whole`, by default all engines of the tree."""
        speeds = [self._speed[key] for key in engines]
        total = sum(self._speed[key] for key in (self.engines if whole is None else whole))
        return Capacity(len(speeds), sum(speeds), sum(speeds) / total if total else 0.0)

    def all(self) -> list[Risk]:
        """The risk of every node and link above engines, except the root: lost models first, then speed."""
        points = {point for key, chain in self._dominators.items() for point in chain if key not in point}
        groups: dict[Point, list[Point]] = {}
        for point in sorted(points, key=self._rank):
            end = point[-1:]  # the node at the lower end of a link
            same = end in points and self._dominator[end] == point
            groups.setdefault(end if same else point, []).append(point)
        found = [self._risk(group) for group in groups.values()]
        return sorted(found, key=lambda risk: (-len(risk.lost_models), -risk.lost.speed, self._rank(risk.points[0])))

    def _rank(self, point: Point) -> tuple[int, ...]:
        """From the top down, then in the order of the file."""
        return (len(list(self._chain(point))), *(self._order[key] for key in point))

    def _risk(self, group: Sequence[Point]) -> Risk:
        lost = [key for key in self.engines if group[0] in self._dominators[key]]
        affected: set[str] = set().union(*(self._models[key] for key in lost))
        remaining: set[str] = set().union(*(self._models[key] for key in self.engines if key not in lost))
        return Risk(
            points=tuple(sorted(group, key=len)),
            lost=self.capacity(lost),
            lost_models=tuple(sorted(affected - remaining)),
            weakened_models=tuple(sorted(affected & remaining)),
        )

    def bottlenecks(self) -> list[Bottleneck]:
        """One for each model, by name."""
        return [self._bottleneck(model) for model in self.models]

    def _bottleneck(self, model: str) -> Bottleneck:
        serving = [key for key in self.engines if model in self._models[key]]
        chains = [{point for point in self._dominators[key] if len(point) == 1} for key in serving]
        critical = sorted(set.intersection(*chains), key=self._rank)
        worst, left = None, serving
        if not critical:
            lost = {point: [key for key in serving if point in self._dominators[key]] for point in set().union(*chains)}
            worst = min(lost, key=lambda point: (-self.capacity(lost[point]).speed, self._rank(point)))
            left = [key for key in serving if key not in lost[worst]]
        return Bottleneck(model, self.capacity(serving), tuple(critical), worst, self.capacity(left, serving))


def _dominators(graph: TreeGraph, root: str) -> dict[Point, Point | None]:
    """Of each point below the root the nearest one that all paths to it go through; the root has None."""
    below = graph.below(root)
    points = nx.DiGraph()
    points.add_node((root,))
    for parent, child in graph.digraph.edges:
        if parent in below or parent == root:
            points.add_edge((parent,), (parent, child))
            points.add_edge((parent, child), (child,))
    return dict(nx.immediate_dominators(points, (root,)))
