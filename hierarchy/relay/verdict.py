"""How a child's response ended: judged by its head, the first and the last bytes of its body, and what a node says.

What lies between is not looked at, so a long stream costs no more than a short one.
"""

from __future__ import annotations

from typing import Final

from hierarchy.http.dialect import Dialect
from hierarchy.http.framing import Chunked
from hierarchy.http.render import outcome_trailer
from hierarchy.http.response_check import Problem, first_problem, last_problem
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.registry.child import NODE, Child
from hierarchy.relay.upstream.connection import KEPT, RequestSender

MAX_FIRST: Final = 256  # bytes of the beginning of a body that are kept to judge its end


class Verdict:
    """What is known of one response. dialect: of the request's path. child: that sends it."""

    outcome: str = ""  # `ok`, `error`, or `cut` if the child says so; "" until it has ended
    reason: str = ""  # of an outcome that is not `ok`, as a sentence without its subject, the child
    _first: bytes = b""  # the beginning of the body
    _before: bytes = b""  # the ends of its last two pieces
    _tail: bytes = b""

    def __init__(self, dialect: Dialect, child: Child) -> None:
        self.problem: Problem | None = None  # with a response that began with status 200
        self._dialect = dialect
        self._is_node = child.kind == NODE

    # -- while the body comes ------------------------------------------------------------------------------------

    def look_at_first(self, response: UpstreamResponse, data: bytes, *, whole: bool) -> None:
        """The first bytes of the body have come. whole: they are all of it."""
        self.problem = first_problem(response.head, self._dialect, data, whole=whole)

    def keep_first(self, data: bytes) -> None:
        """The body begins with these bytes, and goes on."""
        self._first, self._tail = data[:MAX_FIRST], data[-KEPT:]

    def keep(self, data: bytes) -> None:
        """The next bytes; the body goes on."""
        self._before, self._tail = self._tail, data[-KEPT:]

    def keep_forwarded(self, sender: RequestSender) -> None:
        """The connection passed pieces on by itself: take the ends of the last two."""
        self._before, self._tail = b"".join([self._tail, sender.before]), sender.latest
        sender.before = sender.latest = b""

    # -- at its end ----------------------------------------------------------------------------------------------

    def end(self, response: UpstreamResponse, last: bytes) -> None:
        """All of the body has come, with `last` as its end: note the outcome."""
        head, told = response.head, b""
        if head.is_failure:
            self.outcome, self.reason = "error", f"answered {head.status}"
            return
        if head.kind == "chunked" and self._is_node and isinstance(response.framing, Chunked):
            told = response.framing.outcome
        problem = self.problem
        if problem is None:
            tail = b"".join([self._before, self._tail, last])
            problem = self.problem = last_problem(head, self._dialect, self._first or last, tail)
        self.outcome = "cut" if told == b"cut" else "ok" if problem is None and told != b"error" else "error"
        if problem is not None:
            self.reason = problem.reason

    @property
    def blames_child(self) -> bool:
        """Is a response that did not end well the child's fault, and not the request's?"""
        return self.problem is None or not self.problem.is_client_fault

    @property
    def is_bad(self) -> bool:
        """Did an engine, with status 200, begin a response that is not one?

        If it reports an error after good content, the client gets both, however they were read.
        """
        problem = self.problem
        if problem is None or problem.is_client_fault or self._is_node:
            return False
        return not (problem.reported and problem.is_late)

    def trailer(self) -> bytes:
        """For a parent, if the response did not end well."""
        return b"" if self.outcome == "ok" else outcome_trailer(self.outcome)

    def __repr__(self) -> str:
        return f"<Verdict {self.outcome or 'none yet'} {self.reason}>"
