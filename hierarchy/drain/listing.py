"""What is drained in a tree: by whom, since when and why. Computed from `GET /tree`."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hierarchy.drain.impact import names_of
from hierarchy.wire.tree_entry import MAX_DEPTH, DrainEntry, TreeEntry

STOPPING = DrainEntry(reason="it is stopping, or a node of an earlier release drained it")


class Drained(msgspec.Struct, frozen=True):
    """A node or engine that gets no new requests."""

    #: below the node that lists it; without instance numbers where all instances of its parents agree
    path: str
    state: str
    since: float
    by: str
    reason: str
    #: requests that the node above has open there, over all its instances
    in_flight: int


def drained(tree: TreeEntry) -> list[Drained]:
    """Everything in the tree that is drained, in the tree's order."""
    by_path: dict[str, list[tuple[str, TreeEntry]]] = {}
    for path, shared, entry in _entries(tree, "", "", 0):
        by_path.setdefault(shared, []).append((path, entry))
    rows: list[Drained] = []
    for shared, places in by_path.items():
        found = [(path, entry, drain) for path, entry in places if (drain := _drain_of(entry)) is not None]
        if len(found) == len(places) and len({drain for *_, drain in found}) == 1:
            _, entry, drain = found[0]
            rows.append(_row(shared, entry, drain, sum(one.in_flight or 0 for _, one, _ in found)))
        else:
            rows += [_row(path, entry, drain, entry.in_flight or 0) for path, entry, drain in found]
    return rows


def _row(path: str, entry: TreeEntry, drain: DrainEntry, in_flight: int) -> Drained:
    return Drained(path, entry.state, drain.since, drain.by, drain.reason, in_flight)


def _drain_of(entry: TreeEntry) -> DrainEntry | None:
    return entry.drain or (STOPPING if entry.state == "draining" else None)


def _entries(entry: TreeEntry, above: str, shared: str, depth: int) -> Iterator[tuple[str, str, TreeEntry]]:
    """Each entry below with its path, and the path without instance numbers."""
    if depth > MAX_DEPTH:
        return
    for key, child in entry.children.items():
        path, same = f"{above}{key}", f"{shared}{min(names_of(key, child), key=len)}"
        yield path, same, child
        yield from _entries(child, f"{path}/", f"{same}/", depth + 1)
