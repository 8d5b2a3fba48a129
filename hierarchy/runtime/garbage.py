"""When Python looks for reference cycles: a full search holds the event loop for 90 ms at a node with 5,000 children.

Nearly all that a node keeps lives long and is in no garbage. What was there at a full search, and is alive after it, is
set aside (`gc.freeze`), so that the next one looks only at what came since. Some of it becomes garbage later, as
children leave. So when as much again has been set aside, everything is searched once.

    set aside      ▁▁▁▁▁▁▁▁▂▂▂▂▂▃▃▃▃  twice as much as was alive ▶ search all ▶ ▁▁▁▁
    full searches       ▲    ▲    ▲   each of no more than what came since the one before
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

YOUNG = 10_000  # new objects before the young are searched: 1 ms; Python's 700 make one large message 20 % dearer
LONG_S = 0.01  # a full search that takes longer sets aside what it found alive
LEAST = 600_000  # objects that are set aside before all are searched again: some 80 MB at most that are garbage


class Garbage:
    """The policy of one process, from `start` until `stop`. clock: CPU seconds of the calling thread."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._threshold = gc.get_threshold()
        self._began = 0.0
        self._most = 0  # objects that may be set aside before all are searched
        self._searches_all = False  # at the next full search

    def start(self) -> None:
        """All that was imported and built lives as long as the process."""
        self._threshold = gc.get_threshold()
        gc.collect()
        gc.freeze()
        self._note_alive()
        gc.set_threshold(YOUNG, *self._threshold[1:])
        gc.callbacks.append(self._note)

    def stop(self) -> None:
        """Do as Python does."""
        if self._note in gc.callbacks:
            gc.callbacks.remove(self._note)
            gc.set_threshold(*self._threshold)
            gc.unfreeze()

    def _note(self, phase: str, info: dict[str, Any]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = self._clock()
        elif self._clock() - self._began >= LONG_S:
            self._set_aside()

    def _set_aside(self) -> None:
        gc.freeze()
        if self._searches_all:  # and it has been done
            self._note_alive()
        elif gc.get_freeze_count() >= self._most:
            gc.unfreeze()
            self._searches_all = True

    def _note_alive(self) -> None:
        self._searches_all = False
        self._most = 2 * gc.get_freeze_count() + LEAST
