"""Finding children that cannot be reached, from what the kernel knows of the connections on which requests wait.

A machine that is gone, or a path to it, breaks no connection: requests wait until a time limit. But their bytes are not
acknowledged, while the kernel of a living machine acknowledges whatever its processes do. So a child from which nothing
comes is looked at: if what was sent to it is not acknowledged, and nothing else was meanwhile, it cannot be reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from hierarchy.registry.child import Child
from hierarchy.relay.attempt import Attempt
from hierarchy.runtime.tcp_keepalive import UNREACHABLE_S, TcpState

QUIET_S: Final = 1.0  # without a byte from a child that has requests; then its connections are looked at
LOOKED_AT: Final = 8  # connections of a child


def is_quiet(child: Child, now: float) -> bool:
    """Does the child have requests, and nothing came from it lately?"""
    return child.in_flight > 0 and now - child.heard_at >= QUIET_S


def unreachable(attempts: Iterable[Attempt], now: float) -> list[Attempt]:
    """For each child that cannot be reached, one of its attempts. attempts: of children that are quiet."""
    looked_at: dict[Child, list[Attempt]] = {}
    for attempt in attempts:
        of_child = looked_at.setdefault(attempt.child, [])
        if len(of_child) < LOOKED_AT and attempt.sender is not None:
            of_child.append(attempt)
    found = (_unreachable(of_child, now) for of_child in looked_at.values())
    return [attempt for attempt in found if attempt is not None]


def _unreachable(attempts: Sequence[Attempt], now: float) -> Attempt | None:
    states = [(attempt, state) for attempt in attempts if (state := _state(attempt)) is not None]
    for attempt, state in states:
        silent_s = state.unreachable_s(now - attempt.sent_at)
        if silent_s >= UNREACHABLE_S:
            # If anything else was acknowledged meanwhile, it is only this connection that is lost.
            return attempt if all(other.last_ack_s >= silent_s for _, other in states) else None
    return None


def _state(attempt: Attempt) -> TcpState | None:
    return attempt.sender.tcp_state() if attempt.sender is not None else None
