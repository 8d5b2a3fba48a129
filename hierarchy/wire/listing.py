"""Which models the engines of a subtree list, kept beside it, so that a patch costs only what it changes.

A merge patch leaves what it does not touch the same object (see `subtree`). So an entry that is the same object as
before lists the same models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hierarchy.runtime.steps import Steps, at_once
from hierarchy.wire.tree_entry import MAX_DEPTH

SeenKey = tuple[str, str]  #: a `ModelKey`; a child of a later release may have other API families
NOTHING: frozenset[SeenKey] = frozenset()
NO_PARTS: dict[str, Listing] = {}  #: of all that have none; there may be 100,000 engines
MAX_LISTED = 20_000  #: models below one child; of more than that, none is known


class Listing:
    """What an entry lists, and everything below it.

    of: the JSON that it was made of: an engine's entry, or the `children` of a node. parts: of the entries below.
    """

    __slots__ = ("engines", "keys", "of", "parts")

    def __init__(
        self, of: object, keys: frozenset[SeenKey], parts: dict[str, Listing] | None = None, engines: int = 0
    ) -> None:
        self.of = of
        self.keys = keys  # (model, API family)
        self.parts = parts or NO_PARTS
        self.engines = engines  # how many with models it is, or has below it
        for part in self.parts.values():
            self.engines += part.engines


def listing(children: object, before: Listing | None = None, depth: int = 0) -> Listing:
    """What the engines of a subtree list, available or not. A malformed entry lists nothing.

    before: the listing of an earlier version. depth: levels of nodes above; see `tree_entry.MAX_DEPTH`.
    """
    if before is not None and before.of is children:
        return before
    return at_once(listing_steps(children, before, depth))


def listing_steps(children: object, before: Listing | None = None, depth: int = 0) -> Steps[Listing]:
    """`listing` in steps."""
    if before is not None and before.of is children:
        return before
    if not isinstance(children, Mapping) or depth > MAX_DEPTH:
        return Listing(children, NOTHING)
    known = before.parts if before is not None else {}
    parts: dict[str, Listing] = {}
    for name, entry in children.items():
        if isinstance(entry, Mapping):
            old = known.get(name)
            if entry.get("kind") == "node":
                part = yield from listing_steps(entry.get("children"), old, depth + 1)
                if part.keys or part.parts:
                    parts[name] = part
            elif entry.get("models"):
                parts[name] = old if old is not None and old.of is entry else Listing(entry, _rows(entry), engines=1)
        yield
    # Without parts it may be that of an engine, which listed its own models and is a node now.
    if before is not None and known and len(parts) == len(known) and all(parts.get(n) is p for n, p in known.items()):
        return Listing(children, before.keys, parts)
    keys: set[SeenKey] = set()
    for part in parts.values():
        keys |= part.keys
        if len(keys) > MAX_LISTED:
            return Listing(children, NOTHING, parts)
    return Listing(children, frozenset(keys), parts)


def _rows(entry: Mapping[str, Any]) -> frozenset[SeenKey]:
    """What an engine's entry lists; of a row with a malformed API family the default one (see `tree_entry`)."""
    rows = entry.get("models")
    if not isinstance(rows, list | tuple):
        return NOTHING
    keys = set()
    for row in rows:
        if isinstance(row, Mapping):
            name, api = row.get("name"), row.get("api")
            if isinstance(name, str) and name:
                keys.add((name, api if isinstance(api, str) and api else "openai"))
    return frozenset(keys)
