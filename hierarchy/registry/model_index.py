"""Which children list a model. Kept up to date child by child, so that a look-up does not depend on their number.

A child lists what it reports, and what the engines below it list, available or not. Whoever changes a child calls
`touch`, which costs nothing; the next look-up that needs the index takes in what was touched.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from hierarchy.registry.child import Child, Share
from hierarchy.wire.listing import NOTHING, Listing, SeenKey, listing
from hierarchy.wire.status import ModelKey

FEW: Final = 16  # models
AT_ONCE: Final = 1000  # models that are taken in in one step
NO_SHARES: Final[dict[Child, Share]] = {}
NO_SHARES_YET: Final[dict[ModelKey, Share]] = {}


class _Entry:
    """What the index holds of one child."""

    __slots__ = ("below", "shares")

    def __init__(self) -> None:
        self.shares: dict[ModelKey, Share] = {}
        self.below: Listing | None = None


class Moved:
    """What a child's change did. Each is a list of (model, API family)."""

    __slots__ = ("appeared", "dropped", "vanished")

    def __init__(self) -> None:
        self.appeared: list[SeenKey] = []  # no child listed it before
        self.dropped: list[ModelKey] = []  # the child itself reports it no longer
        self.vanished: list[SeenKey] = []  # no child lists it any more


class ModelIndex:
    """The models of some children."""

    def __init__(self) -> None:
        self.order: list[ModelKey] = []  # what the children report, sorted
        self._shares: dict[ModelKey, dict[Child, Share]] = {}  # of the children that report it
        self._count: dict[SeenKey, int] = {}  # how often it is listed, by a child or below one
        self._names: dict[str, int] = {}  # keys in `_count` with this name
        self._entries: dict[Child, _Entry] = {}
        self._touched: dict[Child, float] = {}  # and when

    def touch(self, child: Child, now: float) -> None:
        """Something that the child lists may have changed, or the child has come or gone."""
        self._touched[child] = now

    @property
    def is_touched(self) -> bool:
        """Was a child touched since the last call of `touched`?"""
        return bool(self._touched)

    def touched(self) -> list[tuple[Child, float]]:
        """The children that were touched since the last call, and when."""
        if not self._touched:  # nearly always
            return []
        touched = list(self._touched.items())
        self._touched.clear()
        return touched

    def differs(self, child: Child) -> bool:
        """Does it report or have below it other things than the index holds?"""
        entry = self._entries.get(child)
        if entry is None:
            return True
        return entry.shares is not child.shares or (entry.below is not None and entry.below.of is not child.subtree)

    def listing_of(self, child: Child) -> Listing | None:
        """What was listed below a child at the last update."""
        entry = self._entries.get(child)
        return None if entry is None else entry.below

    def size(self, child: Child, *, here: bool) -> int:
        """How many models have to be looked at to take in what a child lists now, at most."""
        entry = self._entries.get(child)
        before = NO_SHARES_YET if entry is None else entry.shares
        shares = child.shares if here else NO_SHARES_YET
        size = 0 if shares is before else len(shares) + len(before)
        if entry is None or entry.below is None:
            return size if child.listed is None else size + len(child.listed.keys)
        return size if here and entry.below.of is child.subtree else size + len(entry.below.keys)

    def changes(self, child: Child, *, here: bool) -> Iterator[Moved]:
        """Take in what a child lists now, some models at a time; each of them is right by itself after each part.

        here: it is one of the children; otherwise it lists nothing. Do not begin again before it has ended.
        """
        entry = self._entries.get(child)
        if entry is None:
            if not here:
                return
            entry = self._entries[child] = _Entry()
        shares = child.shares if here else NO_SHARES_YET
        if entry.shares is not shares:
            yield from self._share_changes(child, entry, shares)
        moved = Moved()
        before = entry.below.keys if entry.below is not None else NOTHING
        if here and (child.subtree or entry.below is not None):
            ready, child.listed = child.listed, None
            entry.below = listing(child.subtree, entry.below if ready is None else ready)
        after = entry.below.keys if here and entry.below is not None else NOTHING
        if after is not before:
            self._add(after - before, moved)
            self._remove(before - after, moved)
        if not here:
            self._entries.pop(child, None)
        yield moved

    def _share_changes(self, child: Child, entry: _Entry, shares: dict[ModelKey, Share]) -> Iterator[Moved]:
        held = entry.shares = dict(entry.shares)  # what the index holds after each part
        gone = [key for key in held if key not in shares]
        changed = [key for key, share in shares.items() if held.get(key) is not share]
        for begin in range(0, max(len(gone), len(changed)), AT_ONCE):
            yield self._move(child, held, shares, gone[begin : begin + AT_ONCE], changed[begin : begin + AT_ONCE])
        entry.shares = shares

    def _move(
        self,
        child: Child,
        held: dict[ModelKey, Share],
        shares: dict[ModelKey, Share],
        gone: list[ModelKey],
        changed: list[ModelKey],
    ) -> Moved:
        moved, by_key = Moved(), self._shares
        new, empty, added = list[ModelKey](), list[ModelKey](), list[ModelKey]()
        for key in changed:
            if key not in held:
                added.append(key)
            share = held[key] = shares[key]
            known = by_key.get(key)
            if known is None:
                by_key[key] = {child: share}
                new.append(key)
            else:
                known[child] = share
        for key in gone:
            del held[key]
            known = by_key[key]
            if len(known) == 1:
                del by_key[key]
                empty.append(key)
            else:
                del known[child]
        self._reorder(new, empty)
        self._add(added, moved)
        self._remove(gone, moved)
        moved.dropped = list(gone)
        return moved

    def _reorder(self, new: list[ModelKey], gone: list[ModelKey]) -> None:
        """Keep `order` sorted: one by one if they are few, since each moves all that follow."""
        if len(gone) > FEW:
            left_out = set(gone)
            self.order = [key for key in self.order if key not in left_out]
        else:
            for key in gone:
                del self.order[bisect_left(self.order, key)]
        if len(new) > FEW:
            self.order += new
            self.order.sort()
        else:
            for key in new:
                insort(self.order, key)

    def _add(self, keys: Collection[SeenKey], moved: Moved) -> None:
        counts, names = self._count, self._names
        appeared = [key for key in keys if key not in counts]
        if len(appeared) != len(keys):
            for key in keys:
                if key in counts:
                    counts[key] += 1
        counts.update(dict.fromkeys(appeared, 1))
        for name, _ in appeared:
            names[name] = names.get(name, 0) + 1
        moved.appeared += appeared

    def _remove(self, keys: Collection[SeenKey], moved: Moved) -> None:
        counts, names = self._count, self._names
        vanished = [key for key in keys if counts[key] == 1]
        if len(vanished) != len(keys):
            for key in keys:
                if counts[key] > 1:
                    counts[key] -= 1
        for key in vanished:
            del counts[key]
            if names[key[0]] == 1:
                del names[key[0]]
            else:
                names[key[0]] -= 1
        moved.vanished += vanished

    # -- look-ups ------------------------------------------------------------------------------------------------

    def shares(self, key: ModelKey) -> Mapping[Child, Share]:
        """The shares of the children that report a model, available or not."""
        return self._shares.get(key, NO_SHARES)

    def lists(self, model: str, api: str | None = None) -> bool:
        """Does any child, or an engine below one, list the model (in one API family, or in any)?"""
        return model in self._names if api is None else (model, api) in self._count

    def __repr__(self) -> str:
        return f"<ModelIndex {len(self._entries)} children, {len(self._count)} models>"
