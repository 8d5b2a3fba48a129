"""The labels of one child: what this node knows of it, and what the child says of its models, which only takes away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hierarchy.labels import (
    CLOSED,
    MAX_SETS,
    LabelSet,
    Requirement,
    best,
    closed,
    is_readable,
    meet,
    value_of,
)
from hierarchy.wire.offer import Offer

Sets = tuple[dict[str, str], ...]
Row = tuple[tuple[str, str], ...]  #: a set of labels that can be a key
ANYTHING: Final[Sets] = ({},)  # of a child that says nothing
NOTHING_SAID: Final[dict[str, Sets]] = {}
MAX_BELOW: Final = 256  # requirements that are kept in the form for the child


class ChildLabels:
    """What can be required of one child.

    Until `bind` is called, nothing can: a child that registered is bound by its parent's configuration or its token.
    """

    __slots__ = ("_below", "_reported", "_rest", "_rows", "bound", "ignored")

    def __init__(self) -> None:
        self.bound: LabelSet = CLOSED
        self.ignored: tuple[str, ...] = ()  # labels in its last report that it is not bound to, `name=value`
        self._reported = NOTHING_SAID  # by model
        self._rest: Sets = ANYTHING  # of all other models
        self._rows: dict[str, tuple[Row, ...]] | None = None  # by model, see `rows`
        self._below: dict[Requirement, Requirement] | None = None  # see `below`

    def bind(self, declared: LabelSet | None, token: LabelSet | None = None) -> bool:
        """What this node knows of it. Returns whether anything is different.

        declared: by this node's configuration, which applies to all that is below it; None: it does not have this
        child. token: by the token with which it joined.
        """
        found = (
            (closed(token) if token else CLOSED) if declared is None else {**token, **declared} if token else declared
        )
        if found == self.bound:
            return False
        self.bound = found
        self._rows = self._below = None
        return True

    def take(self, offers: Iterable[Offer]) -> bool:
        """What the child says of its models, all of it. Returns whether anything is different.

        What cannot be read offers nothing.
        """
        rest, reported, ignored = ANYTHING, NOTHING_SAID, dict[str, None]()
        for offer in offers:
            sets = tuple([one for one in offer.sets if is_readable(one)]) if len(offer.sets) <= MAX_SETS else ()
            for one in offer.sets[: MAX_SETS + 1]:
                self._note_ignored(one, ignored)
            if offer.models is None:
                rest = sets
                continue
            if reported is NOTHING_SAID:
                reported = {}
            for name in offer.models:
                reported[name] = sets
        self.ignored = tuple(sorted(ignored))
        if rest == self._rest and reported == self._reported:
            return False
        self._rest, self._reported = rest, reported
        self._rows = None
        return True

    def _note_ignored(self, said: LabelSet, ignored: dict[str, None]) -> None:
        if not is_readable(said):
            ignored["(unreadable)"] = None
            return
        for name, value in said.items():
            known = value_of(self.bound, name)
            if value and known is not None and not meet({name: known}, {name: value})[name]:
                ignored[f"{name}={value}"] = None

    def can(self, model: str, requirement: Requirement) -> bool:
        """May it get a request for a model that requires these labels?"""
        bound = self.bound
        return any(requirement.met_by(bound, one) for one in self._reported.get(model, self._rest))

    def below(self, requirement: Requirement) -> Requirement:
        """The same requirement, as the child hears it."""
        known = self._below
        if known is None or len(known) > MAX_BELOW:
            known = self._below = {}
        found = known.get(requirement)
        if found is None:
            found = known[requirement] = requirement.below(self.bound)
        return found

    def rows(self, model: str) -> tuple[Row, ...]:
        """What can be required of the engines that serve a model there, one set for each kind of them."""
        known = self._rows
        if known is None:
            known = self._rows = {}
        found = known.get(model)
        if found is None:
            said = self._reported.get(model, self._rest)
            sets = best([meet(self.bound, one) for one in said]) or ()
            found = known[model] = tuple([tuple(sorted(one.items())) for one in sets])
        return found

    @property
    def is_used(self) -> bool:
        """Is there any label?"""
        return any(self.bound.values()) or self._reported is not NOTHING_SAID or self._rest is not ANYTHING

    def __repr__(self) -> str:
        return f"<ChildLabels {dict(self.bound)} ignored={len(self.ignored)}>"
