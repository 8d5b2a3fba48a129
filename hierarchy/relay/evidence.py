"""Finding children that cannot be reached, from what the kernel knows of the connections on which requests wait.

A machine that is gone, or a path to it, breaks no connection: requests wait until a time limit. But their bytes are not
acknowledged, while the kernel of a living machine acknowledges whatever its processes do. So a child from which nothing
comes is looked at: if what was sent to it is not acknowledged, and nothing else was meanwhile, it cannot be reached.
If something else was, only the connection is lost, as after a firewall was restarted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from hierarchy.registry.child import Child
from hierarchy.relay.attempt import Attempt
from hierarchy.runtime.tcp_keepalive import DEAD_MS, UNREACHABLE_S, TcpState

QUIET_S: Final = 1.0  # without a byte from a child that has requests; then its connections are looked at
LOOKED_AT: Final = 8  # connections of a child
LOST_S: Final = DEAD_MS / 1000  # after which a connection to a child that can be reached is given up


def is_quiet(child: Child, now: float) -> bool:
    """Does the child have requests, and nothing came from it lately?"""
    return child.in_flight > 0 and now - child.heard_at >= QUIET_S


class Finding(NamedTuple):
    """A child whose kernel, or the path to it, is silent on a connection."""

    attempt: Attempt  # that uses the connection
    silent_s: float
    is_alone: bool  # other connections to the child show that it can be reached


def find(attempts: Iterable[Attempt], now: float) -> list[Finding]:
    """At most one finding for each child. attempts: of children that are quiet."""
    looked_at: dict[Child, list[Attempt]] = {}
    for attempt in attempts:
        of_child = looked_at.setdefault(attempt.child, [])
        if len(of_child) < LOOKED_AT and attempt.sender is not None:
            of_child.append(attempt)
    findings = (_find(of_child, now) for of_child in looked_at.values())
    return [finding for finding in findings if finding is not None]


def _find(attempts: Sequence[Attempt], now: float) -> Finding | None:
    states = [(attempt, state) for attempt in attempts if (state := _state(attempt)) is not None]
    for attempt, state in states:
        silent_s = state.unreachable_s(now - attempt.sent_at)
        if silent_s >= UNREACHABLE_S:
            return Finding(attempt, silent_s, any(other.last_ack_s < silent_s for _, other in states))
    return None


def _state(attempt: Attempt) -> TcpState | None:
    return attempt.sender.tcp_state() if attempt.sender is not None else None
