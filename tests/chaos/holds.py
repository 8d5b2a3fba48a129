"""How long nodes hold their event loops: no step may take 50 ms of CPU time, whatever happens to a node."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MOST_S = 0.05
SHORT_S = 3 * MOST_S  # in the short forms, which run on any machine: CPU time is that machine's
METRIC = "hierarchy_loop_longest_hold_seconds"
UNKNOWN = "a step that was not logged"
_LINE = re.compile(r"event loop was held for (\d+) ms by (.*)")


class Hold(NamedTuple):
    """One step of a node's event loop. seconds: of its thread's own CPU time. what: as the node's log names it."""

    seconds: float
    node: str
    what: str = UNKNOWN

    def __str__(self) -> str:
        named = "" if self.what == UNKNOWN else f" at {self.node} by {self.what}"
        return f"longest hold of an event loop: {1000 * self.seconds:.0f} ms of its own CPU time{named}"


def logged(node: str, log: Path) -> list[Hold]:
    """The holds of 50 ms or more in a node's log, which has one line for several within ten seconds."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return [Hold(int(ms) / 1000, node, what) for ms, what in _LINE.findall(text)]


def longest(node: str, log: Path, measured_s: float) -> Hold:
    """The longest hold of a node. measured_s: its metric; 0.0 of a process that has ended, which only has its log."""
    return max(
        [Hold(measured_s, node), *logged(node, log)], key=lambda hold: (round(hold.seconds, 3), hold.what != UNKNOWN)
    )


def check(holds: Iterable[Hold], most_s: float = SHORT_S) -> None:
    """Fail if a step took longer."""
    too_long = [f"{hold.node}: {1000 * hold.seconds:.0f} ms by {hold.what}" for hold in holds if hold.seconds > most_s]
    assert not too_long, f"event loops were held for more than {1000 * most_s:.0f} ms of CPU time: {too_long}"
