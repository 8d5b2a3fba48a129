"""A running tree, as a node's `GET /tree` returns it, as a graph; and the checks of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from hierarchy.config.address import parse_url
from hierarchy.config.yaml import FieldPath, Finding, Problem
from hierarchy.topology.checks import check_addresses, check_all, check_names, check_shape
from hierarchy.topology.graph import Member, TreeGraph
from hierarchy.wire.tree_entry import MAX_DEPTH, TreeEntry

_EXTRA_INSTANCE = re.compile(r"(.+)~\d+")
Check = Callable[[TreeGraph], Iterator[Finding]]


def live_graph(tree: TreeEntry) -> TreeGraph:
    """The graph of a running tree, beginning with the node that was asked.

    A process that is a child of several nodes is one member, with an edge from each of them. Another process whose
    name is taken gets the key "NAME (PARENT)".
    """
    members: dict[str, Member] = {}
    _add(members, tree, None, ())
    return TreeGraph(members.values())


def _add(members: dict[str, Member], entry: TreeEntry, parent: str | None, path: FieldPath) -> None:
    """Add an entry and all below it. path: the names from the top down to its parent."""
    member = _member(entry, parent, path)
    key, count = member.key, 1
    while key in members:
        known = members[key]
        if parent is not None and member.instance and member.instance == known.instance:
            members[key] = replace(known, parents=(*known.parents, parent))
            return
        count += 1
        key = f"{entry.name} ({parent})" if count == 2 else f"{entry.name} ({parent}, {count})"
    members[key] = replace(member, key=key)
    if len(path) < MAX_DEPTH:
        for child in entry.children.values():
            _add(members, child, key, member.field)


def _member(entry: TreeEntry, parent: str | None, path: FieldPath) -> Member:
    extra = _EXTRA_INSTANCE.fullmatch(entry.name)
    reverse = entry.link == "reverse"
    urls = (
        () if reverse else _urls(entry.url)
    )  # the URL of a reverse link is never dialled, and several may have the same
    return Member(
        key=entry.name,
        name=extra[1] if extra else entry.name,
        kind=entry.kind,
        field=(*path, entry.name),
        parents=() if parent is None else (parent,),
        link="reverse" if reverse else "direct",
        declared_url=None if reverse else entry.url,
        urls=urls,
        urls_for_parent=urls,
        models=tuple(dict.fromkeys(model.name for model in entry.models)),
        speed=entry.speed or 0.0,
        state=entry.state,
        wakes=entry.wakes and entry.may_serve,
        detail=entry.detail,
        warnings=entry.warnings,
        instance=entry.instance,
        extra_instance=extra is not None,
    )


def _urls(url: str) -> tuple[str, ...]:
    try:
        return (parse_url(url)[0],)
    except ValueError:
        return ()


def present(graph: TreeGraph) -> TreeGraph:
    """The graph without the members that have left and are only remembered."""
    return graph.only([member.key for member in graph if member.state != "gone"])


def check_duplicate_nodes(graph: TreeGraph) -> Iterator[Finding]:
    """No two nodes share a name. (Engines may: flags name them `vllm-1` at every node.)"""
    nodes = graph.nodes
    for key, node in nodes.items():
        if key != node.name and not node.extra_instance:
            first = nodes.get(node.name)
            where = _path(first.field) if first else "an engine"
            yield Finding(node.field, f"another process with this name is {where}", "rename one of them")


def check_warnings(graph: TreeGraph) -> Iterator[Finding]:
    """No node reports that something is wrong with it."""
    for member in graph:
        for warning in member.warnings:
            what, _, hint = warning.partition("; ")
            yield Finding(member.field, what, hint or "see the log of this node")


def live_problems(graph: TreeGraph, url: str) -> list[Problem]:
    """Everything that is wrong with a running tree in itself, whatever is declared."""
    return _problems(graph, url, (check_all, check_duplicate_nodes, check_warnings))


def conflicts(graph: TreeGraph, url: str) -> list[Problem]:
    """Those problems that only a node above all of their parts can see: cycles, names and addresses used twice.

    A node without engines is none of them, since engines may be away for a while.
    """
    return _problems(graph, url, (check_shape, check_names, check_addresses, check_duplicate_nodes))


def _problems(graph: TreeGraph, url: str, checks: Iterable[Check]) -> list[Problem]:
    there = present(graph)
    entries = {member.field for member in there}
    found = []
    for field, message, hint in (finding for check in checks for finding in check(there)):
        place = field if field in entries else field[:-1]  # `/tree` has no such field, so name its entry
        found.append(Problem(url, 0, _path(place), message, hint))
    return found


def _path(field: FieldPath) -> str:
    return "/".join(map(str, field))
