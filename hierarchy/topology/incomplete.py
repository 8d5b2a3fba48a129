"""The checks of a tree whose file has wrong fields: those whose findings do not follow from one of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from hierarchy.config.yaml import FieldPath, Finding
from hierarchy.topology import checks
from hierarchy.topology.graph import TreeGraph
from hierarchy.topology.reachability import Reach, check_reach

EDGES = ("parent", "replica_of")
ADDRESSES = ("listen", "admin_listen", "advertise", "url", "link", "subnet", "tls")
LAUNCH = ("kind", "url", "model")  # what decides whether a node can start an engine
Wrong = Collection[FieldPath]


def check_incomplete(graph: TreeGraph, reach: Reach, wrong: Wrong) -> Iterator[Finding]:
    """Findings about the fields that are right. wrong: paths of the others."""
    for finding in _findings(graph, reach, wrong):
        if not is_wrong(finding.field, wrong):
            yield finding


def is_wrong(field: FieldPath, wrong: Wrong) -> bool:
    """Whether a field is one of these, or inside one."""
    return any(field[: len(path)] == path for path in wrong)


def _findings(graph: TreeGraph, reach: Reach, wrong: Wrong) -> Iterator[Finding]:
    lost_nodes, lost = _lost("nodes", wrong), _lost("nodes", wrong) or _lost("engines", wrong)
    known = {path[2] for path in wrong if len(path) > 2 and path[0] in ("nodes", "engines")}
    if not lost_nodes:
        yield from checks.check_parents(graph)
        yield from checks.check_replicas(_without(graph, wrong, LAUNCH))
    if not lost and known.isdisjoint(EDGES):
        yield from checks.check_shape(graph)
        yield from checks.check_served(graph)
    yield from checks.check_names(graph)
    yield from checks.check_engines(_without(graph, wrong, LAUNCH))
    placed = _without(graph, wrong, (*ADDRESSES, *EDGES))
    yield from checks.check_urls(placed)
    yield from checks.check_addresses(placed)
    if not lost and known.isdisjoint((*ADDRESSES, *EDGES)) and not {("subnets",), ("reach",)} & {p[:1] for p in wrong}:
        yield from check_reach(graph, reach)


def _lost(section: str, wrong: Wrong) -> bool:
    """Whether the whole section, or an entry of it, is not in the tree."""
    return any(path[:1] == (section,) and len(path) <= 2 for path in wrong)


def _without(graph: TreeGraph, wrong: Wrong, fields: Collection[str]) -> TreeGraph:
    """The members for which all these fields are right."""
    return graph.only([member.key for member in graph if not any((*member.field, field) in wrong for field in fields)])
