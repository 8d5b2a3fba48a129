"""Which candidates are left where some would have to load the model first, as `balancing.warm_first` has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from hierarchy.balancing.expected_wait import expected_wait_s
from hierarchy.introspection.terms import Terms
from hierarchy.wire.tree_entry import TreeEntry


class Compared(Terms, frozen=True):
    """A candidate, as far as it matters here."""

    name: str
    #: requests running plus waiting there for this model; more after failures
    load: float = 0
    #: capacity weight
    speed: float = 0.0


C = TypeVar("C", bound=Compared)


def warm_first(candidates: Sequence[C], children: Mapping[str, TreeEntry]) -> list[C]:
    """Those among which the policy chooses. children: the entries of the candidates, by name."""
    cold = [one for one in candidates if one.load_s]
    if not cold:
        return list(candidates)
    warm = [one for one in candidates if not one.load_s]
    least_s = min(one.load_s for one in cold)
    roomy = [one for one in warm if _wait_s(one) < least_s]
    if roomy:
        return roomy
    more = [one for one in cold if one.load]
    if not more:
        fullness = [_fullness(one, children[one.name]) for one in cold]
        more = [one for one, full in zip(cold, fullness, strict=True) if full == min(fullness)]
    return [*warm, *more]


def reason(load_s: float) -> str:
    """Why a candidate is not compared that would have to load the model, or has too much to do."""
    if load_s:
        return f"it would have to load the model first, which takes about {load_s:g} s"
    return "requests wait there for longer than another child takes to load the model"


def _wait_s(one: Compared) -> float:
    return expected_wait_s(one.load, one.slots, one.speed, one.pending) if one.speed else 0.0


def _fullness(one: Compared, entry: TreeEntry) -> tuple[int, float, float]:
    loaded = 0 if entry.is_node else sum(not row.load_s or bool(row.queue_length) for row in entry.models)
    return loaded, (entry.queue_length or 0) / (one.speed or 1.0), one.load_s
