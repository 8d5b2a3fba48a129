"""When a node reports: at its interval, and at once when something changed that its parent must not learn late. Pure.

A node looks at its load ten times a second. What it would report is compared with what the parent acknowledged last.
"""

from __future__ import annotations

from random import Random
from typing import Final

from hierarchy.wire.status import EMPTY, NodeStatus

TICK_S: Final = 0.1  # between two looks at the load, so there are at most ten reports a second
URGENT_CHANGE: Final = 0.1  # a change of load by more than this part is reported at once
JITTER: Final = 0.2  # of the interval between two reports


def next_due(now: float, interval_s: float, rng: Random) -> float:
    """When the next report is due, if nothing urgent happens. Nodes do not report in step."""
    return now + interval_s * rng.uniform(1 - JITTER, 1 + JITTER)


def other_load(status: NodeStatus, of_parent: int) -> int:
    """Requests that the parent did not send, which it does not know. of_parent: open ones that it sent."""
    return max(0, status.queue_length - of_parent)


def is_urgent(status: NodeStatus, other: int, reported: NodeStatus = EMPTY, reported_other: int = 0) -> bool:
    """Has a load changed that the parent does not know of, or what can be chosen?

    other: requests that the parent did not send, now. reported, reported_other: what the parent knows.
    """
    change = abs(other - reported_other)
    return change > URGENT_CHANGE * max(reported.queue_length, 1) or differ(status, reported)


def differ(one: NodeStatus, other: NodeStatus) -> bool:
    """Do they differ in what routing depends on: models, speeds, which of them to avoid, and which are loaded?"""
    if one.models is other.models:  # mostly: a status is kept up to date model by model
        return False
    return len(one.models) != len(other.models) or any(
        a is not b
        and (a.name, a.api, a.speed, a.avoid, a.load_s > 0.0) != (b.name, b.api, b.speed, b.avoid, b.load_s > 0.0)
        for a, b in zip(one.models, other.models, strict=True)
    )
