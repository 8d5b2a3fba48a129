"""The labels of one child: what this node knows of it, and what the child says of its models, which only takes away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hierarchy.labels import (
    CLOSED,
    MAX_SETS,
    OPEN,
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
ANYTHING: Final[Sets] = ({},)  # of a child that says nothing


class ChildLabels:
    """What can be required of one child.

    Until `bind` is called, nothing can: a child that registered is bound by its parent's configuration or its token.
    """

    __slots__ = ("_effective", "_reported", "_rest", "bound", "ignored")

    def __init__(self) -> None:
        self.bound: LabelSet = CLOSED
        self.ignored: tuple[str, ...] = ()  # labels in its last report that it is not bound to, `name=value`
        self._reported: dict[str, Sets] = {}  # by model
        self._rest: Sets = ANYTHING  # of all other models
        self._effective: dict[str, Sets] = {}

    def bind(self, declared: LabelSet | None, token: LabelSet | None = None) -> bool:
        """What this node knows of it. Returns whether anything is different.

        declared: by this node's configuration, which applies to all that is below it; None: it does not have this
        child. token: by the token with which it joined.
        """
        found = closed(token or OPEN) if declared is None else {**(token or OPEN), **declared}
        if found == self.bound:
            return False
        self.bound = found
        self._effective.clear()
        return True

    def take(self, offers: Iterable[Offer]) -> bool:
        """What the child says of its models, all of it. Returns whether anything is different.

        What cannot be read offers nothing.
        """
        rest, reported, ignored = ANYTHING, dict[str, Sets](), dict[str, None]()
        for offer in offers:
            sets = tuple([one for one in offer.sets if is_readable(one)]) if len(offer.sets) <= MAX_SETS else ()
            for one in offer.sets[: MAX_SETS + 1]:
                self._note_ignored(one, ignored)
            if offer.models is None:
                rest = sets
            else:
                for name in offer.models:
                    reported[name] = sets
        self.ignored = tuple(sorted(ignored))
        if rest == self._rest and reported == self._reported:
            return False
        self._rest, self._reported = rest, reported
        self._effective.clear()
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

    def sets(self, model: str) -> Sets:
        """What can be required of the engines that serve a model there, one set for each kind of them."""
        known = self._effective.get(model)
        if known is None:
            said = self._reported.get(model, self._rest)
            known = self._effective[model] = best([meet(self.bound, one) for one in said]) or ()
        return known

    @property
    def is_plain(self) -> bool:
        """Does it say nothing, and this node nothing of it?"""
        return not self.bound and not self._reported and self._rest is ANYTHING

    @property
    def is_used(self) -> bool:
        """Is there any label?"""
        return any(self.bound.values()) or bool(self._reported) or self._rest is not ANYTHING

    def __repr__(self) -> str:
        return f"<ChildLabels {dict(self.bound)} ignored={len(self.ignored)}>"
