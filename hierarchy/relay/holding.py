"""Responses that the client shall not see, if another child can do better, or not in the form in which they come.

    first bytes ──▶ look ──▶ Begin     they are for the client
                        ──▶ HOLD       more has to come
                        ──▶ BreakOff   it is no response: the connection is dropped, and another child is tried
                        ──▶ Unfit      no client of this path can read it
                        ──▶ PassOn     all that matters has come

A `Holding` returns such a step; the attempt takes it. Most responses never need one.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from hierarchy.errors import RequestError
from hierarchy.http.promise import Fate, too_long, unfit
from hierarchy.http.response_head import ResponseHead, UpstreamResponse
from hierarchy.registry.child import NODE
from hierarchy.relay.held import Held
from hierarchy.relay.held_bytes import HeldBytes
from hierarchy.relay.request import Request
from hierarchy.relay.response import Response, path_of
from hierarchy.relay.upstream.connection import ConnectionPool
from hierarchy.relay.verdict import Verdict


class Begin:
    """The response begins. data: what has come of its body."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Hold:
    """Wait for more of it."""


class BreakOff:
    """What the engine sends is not a response. reason: as a sentence without its subject."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Unfit:
    """The request ends with this error: no other child would do better."""

    def __init__(self, error: RequestError) -> None:
        self.error = error


class PassOn:
    """It goes to the client in its final form, if no other child may be tried. hang_up: before it has ended."""

    def __init__(self, held: Held, *, hang_up: bool = False) -> None:
        self.held = held
        self.hang_up = hang_up


# Not dataclasses: mypyc would call their `__init__` interpreted, and each stream begins with a `Begin`.
Step = Begin | Hold | BreakOff | Unfit | PassOn
HOLD: Final = Hold()


class Holding:
    """What is held of one response, and what becomes of it.

    request, response: of the client. pool: of the child. count: the node's bytes in memory.
    """

    def __init__(
        self, request: Request, response: Response, pool: ConnectionPool, verdict: Verdict, count: HeldBytes
    ) -> None:
        self.held: Held | None = None
        self._request = request
        self._response = response
        self._pool = pool
        self._verdict = verdict
        self._count = count
        self._counted = 0  # bytes of it in `count`

    def take(self, source: UpstreamResponse, data: bytes, *, whole: bool) -> Step:
        """The next bytes of its body have come. whole: they are all of it, if nothing is held yet."""
        held = self.held
        if held is None:
            found = self._look_at(source, data, whole=whole)
            if not isinstance(found, Held):
                return found
            held = self.held = found
        else:
            held.add(data)
        self._set_counted(held.size)
        if not whole and (held.is_full or self._count.is_full):
            return self._give_up(held)
        return HOLD

    def ended(self, held: Held) -> Step:
        """The response is complete."""
        verdict = self._verdict
        if held.fate == "as_events":
            verdict.end(held.response, held.body)
            problem = verdict.problem
            if problem is not None and not problem.reported and self._pool.child.kind != NODE:
                return BreakOff(problem.reason)
        return PassOn(held)

    def is_worth_more(self, held: Held) -> bool:
        """The child broke it off: is what it said so far worth more than that?"""
        return self._fate_of(held) == "as_error" and held.response.head.status >= 400

    def release(self) -> None:
        """Nothing is held any more."""
        self._set_counted(0)

    # -- inside --------------------------------------------------------------------------------------------------

    def _look_at(self, source: UpstreamResponse, data: bytes, *, whole: bool) -> Held | Step:
        """Judge a response by its first bytes. Returns what has to be held of it, if it does not begin or end here."""
        head, request, verdict = source.head, self._request, self._verdict
        verdict.look_at_first(source, data, whole=whole)
        problem = verdict.problem
        if verdict.is_bad and problem is not None and not problem.reported:
            return BreakOff(problem.reason)
        fate = self._response.fate(
            source, data, is_error=problem is not None and problem.reported and not problem.is_late,
            wants_stream=request.wants_stream, at_entry=request.parent is None,
        )  # fmt: skip
        if fate == "broken":
            return Unfit(unfit(self._path_of(source), head))
        if fate == "as_it_comes" and not is_retriable(self._pool, head, verdict):
            return Begin(data)
        return Held(source, fate, data)

    def _fate_of(self, held: Held) -> Fate:
        """What becomes of it now: a promise may have been made since it began to come."""
        return "as_error" if self._response.waiting and held.response.head.status >= 300 else held.fate

    def _give_up(self, held: Held) -> Step:
        """The response is too long to be held."""
        if self._fate_of(held) == "as_error":  # what it says is at its beginning
            return PassOn(held, hang_up=True)
        if self._response.waiting and held.fate == "as_events":
            source = held.response
            return Unfit(too_long(self._path_of(source), source.head) if held.is_full else self._count.refusal())
        self.held = None
        self._set_counted(0)
        return Begin(held.body)

    def _set_counted(self, size: int) -> None:
        self._count.change(size - self._counted)
        self._counted = size

    def _path_of(self, source: UpstreamResponse) -> str:
        return path_of(self._pool, source).decode("ascii", "replace")

    def __repr__(self) -> str:
        return f"<Holding {self.held!r}>"


def is_retriable(pool: ConnectionPool, head: ResponseHead, verdict: Verdict | None) -> bool:
    """May another child be tried? After an engine's 503 or error event, or a node that gave attempts back."""
    if pool.child.kind == NODE:
        return head.unspent is not None
    return head.status == 503 or (verdict is not None and verdict.is_bad)


def is_given_back(head: ResponseHead, lent: int, *, others: bool) -> bool:
    """Did a node not even try, since it heard that others could take the request? lent: attempts that it got."""
    unspent = -1 if head.unspent is None else head.unspent
    # FastChat's paths have no status but 200.
    return others and unspent >= lent and head.status in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE)
