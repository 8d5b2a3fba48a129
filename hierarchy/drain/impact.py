"""Which models lose their last available engine when a node or engine is drained. Computed from `GET /tree`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hierarchy.runtime.steps import Steps, at_once
from hierarchy.wire.tree_entry import MAX_DEPTH, TreeEntry

_INSTANCE_NUMBER = re.compile(r"~\d+$")  # of a replicated node: "site~2"
TAKES_REQUESTS = frozenset({"up", "suspect"})  # states in which an engine may get a request


def names_of(key: str, entry: TreeEntry) -> set[str]:
    """The names of a child in a path: its own; of one instance of a replicated node also that of all of them."""
    return {key, _without_number(key)} if entry.is_node else {key}


def _without_number(name: str) -> str:
    return _INSTANCE_NUMBER.sub("", name)


def models_lost(tree: TreeEntry, path: str) -> list[str]:
    """The models that an engine at or below `path` serves now, and no other engine in the tree; sorted."""
    return at_once(models_lost_steps(tree, path))


def models_lost_steps(tree: TreeEntry, path: str) -> Steps[list[str]]:
    """`models_lost`, engine by engine."""
    inside: set[str] = set()
    outside: set[str] = set()
    for engine, is_inside in _engines(tree, path, 0):
        # `detail`: this model alone gets no requests there.
        (inside if is_inside else outside).update(row.name for row in engine.models if not row.detail)
        yield
    return sorted(inside - outside)


def _takes_requests(entry: TreeEntry) -> bool:
    return entry.state in TAKES_REQUESTS or (entry.wakes and entry.may_serve)


def _engines(entry: TreeEntry, path: str, depth: int) -> Iterator[tuple[TreeEntry, bool]]:
    """Each engine that may get a request now, and whether `path`, which starts below `entry`, leads to it."""
    name, _, rest = path.partition("/")
    for key, child in entry.each_child():
        if not _takes_requests(child):
            continue
        # A child of one instance is drained at all of them.
        on_the_way = rest and child.is_node and _without_number(key) == _without_number(name) and depth < MAX_DEPTH
        if on_the_way:
            yield from _engines(child, rest, depth + 1)
        else:
            is_inside = path in names_of(key, child)
            yield from ((engine, is_inside) for engine in _serving(child, depth))


def _serving(entry: TreeEntry, depth: int) -> Iterator[TreeEntry]:
    """The engines at or below an entry; of a node of a release that sends no subtree the node itself."""
    if not entry.raw_children or depth >= MAX_DEPTH:
        yield entry
        return
    for _, child in entry.each_child():
        if _takes_requests(child):
            yield from _serving(child, depth + 1)
