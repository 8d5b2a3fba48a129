"""What happens to a request whose child failed before the first byte of its response's body. Pure.

    attempt failed ──▶ decide ──▶ Again    ask another child, or the same one over a new connection
                              ──▶ PassOn   give the client the child's own error response
                              ──▶ Fail     give the client an error of this node
                              ──▶ Probe    find out whether the child is dead: if it is, another one may be tried

A request has `MAX_ATTEMPTS` attempts in all (see `lent_attempts`). At the entry node a retry needs a place in the retry
budget too, unless it costs nothing: the child is dead, or only an idle connection was.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from hierarchy.balancing.lent_attempts import returned
from hierarchy.errors import RequestError
from hierarchy.relay.held import Held
from hierarchy.relay.upstream.connection import ConnectionPool


class Cause(Enum):
    """Why an attempt failed."""

    STALE = "stale"  # its connection had been idle, and the child closed it: most likely it never saw the request
    DEAD = "dead"  # the child is known to be dead, so nothing was spent there
    MOVED = "moved"  # the child is suspect, or gave the request back, since others can take it: nothing was spent
    REFUSED = "refused"  # the child answered that it cannot serve the request
    BROKEN = "broken"  # it could not be reached, or its response broke


#: as `hierarchy_requests_total` counts them
OUTCOMES: Final = {
    Cause.STALE: "stale", Cause.DEAD: "failed", Cause.MOVED: "moved", Cause.REFUSED: "error", Cause.BROKEN: "failed",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refusal:
    """A child's error response, held while another child may do better."""

    held: Held
    pool: ConnectionPool  # of the child
    is_error: bool = True  # its client gets an error, whatever the status is


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that failed."""

    cause: Cause
    reason: str  # as a sentence without its subject, the child
    lent: int = 0  # attempts that were lent to the child
    unspent: int | None = None  # attempts that it gave back; None if it did not say
    refusal: Refusal | None = None  # of a child that refused
    error: RequestError | None = None  # that the client gets, if no other child is tried


@dataclass(frozen=True, slots=True)
class Again:
    """Make another attempt. fresh: over a new connection. counted: it is a retry in the sense of the budget."""

    fresh: bool = False
    counted: bool = False


@dataclass(frozen=True, slots=True)
class PassOn:
    """Give the client the child's own error response."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Fail:
    """Give the client an error of this node."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Dial the child once more: if that fails it is dead, and the request may go to another one."""


Decision = Again | PassOn | Fail | Probe


def left_after(failure: Failure, left: int) -> int:
    """How many attempts the request has after a failure; `left` were kept here meanwhile."""
    if failure.cause is Cause.STALE:
        return max(left + failure.lent - 1, 1)  # it is tried once more, whatever was lent
    if failure.cause in (Cause.DEAD, Cause.MOVED):
        return left + failure.lent
    return left + returned(failure.lent, failure.unspent)


def is_free(failure: Failure, *, at_entry: bool, child_is_dead: bool) -> bool:
    """May another attempt follow without a place in the retry budget?

    It may where nothing was spent, and below the entry node, where the attempts that were lent are the budget.
    """
    return failure.cause in (Cause.STALE, Cause.DEAD, Cause.MOVED) or child_is_dead or not at_entry


def decide(failure: Failure, left: int, *, free: bool, budget_has_room: bool) -> Decision:
    """What to do now.

    left: attempts, from `left_after`. free: from `is_free`. budget_has_room: the request has a place in the retry
    budget, or can get one.
    """
    if left < 1:
        return give_up(failure)
    if free:
        return Again(fresh=failure.cause is Cause.STALE)
    if budget_has_room:
        return Again(counted=True)
    return give_up(failure) if failure.refusal is not None else Probe()


def give_up(failure: Failure) -> PassOn | Fail:
    """No other child is tried: the client gets the child's own refusal, if there is one."""
    return Fail() if failure.refusal is None else PassOn(failure.refusal)
