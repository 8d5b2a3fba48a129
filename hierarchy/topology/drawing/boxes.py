"""What the picture formats draw: one box for each node and engine, from top to bottom."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from hierarchy.labels import known, write
from hierarchy.runtime import logs
from hierarchy.wire.tree_entry import MAX_DEPTH, TreeEntry

MAX_MODELS = 3  # models that a box names; more are counted
UNKNOWN = "unknown"  # the state of what is below a silent node
_NOT_IN_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")

#: state -> (fill, outline)
COLOURS = {
    "up": ("#e8f5e9", "#2e7d32"),
    "declared": ("#e3f2fd", "#1565c0"),
    "starting": ("#fff8e1", "#f9a825"),
    "draining": ("#fff8e1", "#f9a825"),
    "suspect": ("#fff8e1", "#f9a825"),
    "asleep": ("#fff8e1", "#f9a825"),
}
#: of every other state
BROKEN = ("#ffebee", "#c62828")


@dataclass(frozen=True)
class Box:
    """One node or engine; its texts are harmless to terminals and XML."""

    number: int  #: its place, from 0 at the top
    above: int | None  #: its parent's number
    depth: int  #: 0 at the top
    name: str
    kind: str
    state: str
    details: tuple[str, ...]  #: the lines below the name

    @property
    def lines(self) -> tuple[str, ...]:
        """All its text."""
        return (self.name, *self.details)

    @property
    def colours(self) -> tuple[str, str]:
        """(fill, outline)"""
        return COLOURS.get(self.state, BROKEN)

    @property
    def is_node(self) -> bool:
        """Is it a node, and not an engine?"""
        return self.kind == "node"

    @property
    def is_connected(self) -> bool:
        """Is the line to its parent drawn solid?"""
        return self.state in ("up", "declared")


def boxes(tree: TreeEntry) -> list[Box]:
    """The boxes of a whole tree, each node before its children."""
    found: list[Box] = []
    _collect(tree, None, 0, found)
    return found


def drawn_children(entry: TreeEntry, depth: int) -> list[TreeEntry]:
    """The children of an entry at this level. Below a node that is silent nobody knows their states any more."""
    children = list(entry.children.values()) if depth < MAX_DEPTH else []
    if entry.state not in ("silent", UNKNOWN):
        return children
    return [child if child.state == "gone" else _unknown(child) for child in children]


def _unknown(entry: TreeEntry) -> TreeEntry:
    was = f"was {entry.state} before" + (f": {entry.detail}" if entry.detail else "")
    return msgspec.structs.replace(entry, state=UNKNOWN, detail=was)


def _collect(entry: TreeEntry, above: int | None, depth: int, found: list[Box]) -> None:
    number = len(found)
    name, kind, state = escape(entry.name), escape(entry.kind), escape(entry.state)
    found.append(Box(number, above, depth, name, kind, state, tuple(_details(entry))))
    for child in drawn_children(entry, depth):
        _collect(child, number, depth + 1, found)


def _details(entry: TreeEntry) -> Iterator[str]:
    if not entry.is_node:
        yield escape(entry.kind)
    load = "" if entry.state == "declared" else f" · queue {format_number(entry.queue_length)}"
    yield f"speed {format_number(entry.speed)}{load}"
    names = list(dict.fromkeys(row.name for row in entry.models))
    if names and not entry.is_node:
        more = f" and {len(names) - MAX_MODELS} more" if len(names) > MAX_MODELS else ""
        yield escape(", ".join(names[:MAX_MODELS]) + more)
    if labels := write(known(entry.labels)):
        yield escape(labels)
    if entry.state not in ("up", "declared"):
        yield escape(f"{entry.state}: {entry.detail}" if entry.detail else entry.state)


def escape(text: str) -> str:
    """The text without what a terminal would obey, and without what XML and UTF-8 cannot carry."""
    return _NOT_IN_XML.sub("?", logs.escape(text))


def slots_of(entry: TreeEntry) -> int | None:
    """How many requests it runs at once, of a node all engines below that serve; None: that is not known of all.

    An engine with several models has one GPU for all.
    """
    if not entry.is_node:
        known = [row.slots for row in entry.models]
        return max(known) if known and all(known) else None
    below = [slots_of(engine) for _, engine in entry.engines(up=True)]
    return None if None in below else sum(filter(None, below)) or None


def format_number(value: float | None) -> str:
    """At most four digits; `-` for an unknown number."""
    return "-" if value is None else f"{value:.4g}"
