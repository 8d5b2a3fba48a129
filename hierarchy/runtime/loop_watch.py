"""Measures what holds the event loop, and names it: while one step runs, every request of this node waits.

    loop      ╷tick   ╷tick   ╷tick ▒▒▒▒▒▒▒ one long step ▒▒▒▒▒▒▒ ╷tick   ╷tick
    watcher                              ╵    ╵    ╵    ╵  reads the stack of the loop's thread

A tick compares the thread's own CPU time with that of the tick before. So a machine that is short of processor time, or
a process that was stopped, is not taken for a long step. The watcher is a thread that sleeps unless a tick is late.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

HELD_S = 0.05  # own CPU time of one step that is counted and logged
#: Between two ticks. Of a step of a busy loop up to this much is not counted; of a loop that was idle up to this much
#: of many short steps is counted as one. A hundred ticks a second would cost an idle node half a percent of a core.
TICK_S = 0.02
SLACK_S = 0.02  # by which a tick is late before the stack is read
SAMPLE_S = 0.005  # between two readings of the stack
LOG_EVERY_S = 10.0  # one line for all long steps of this time
MAX_SAMPLES = 1000  # of one step
UNKNOWN = "compiled code, or many short steps"
PACKAGE = "hierarchy"
_ROOT = Path(__file__).parents[2]
_collecting = threading.Lock()  # around switching garbage collection off and on: a process may have several watchers
log = logging.getLogger("hierarchy.node")


class LoopWatch:
    """Watches the thread that runs the event loop, from `start` until `stop`.

    clock, cpu: monotonic seconds, and CPU seconds of the calling thread; injected.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self.longest_s = 0.0  # own CPU time of the longest step since the start
        self.holds = 0  # steps of `HELD_S` or more
        self._clock = clock
        self._cpu = cpu
        self._loop: asyncio.AbstractEventLoop | None = None  # None: not started, or stopped
        self._timer: asyncio.TimerHandle | None = None
        self._thread = 0  # id of the loop's thread
        self._runner: CodeType | None = None  # of the function that runs the loop, outside of each step
        self._stopped = threading.Event()
        self._due = math.inf  # when the next tick is due
        self._at, self._used = clock(), cpu()  # time and CPU time at the last tick
        self._share = 0.0  # of the time before the last tick in which the loop was busy
        self._places: Counter[str] = Counter()  # where the thread was while the tick was late
        self._collecting_since = 0.0  # CPU time
        self._collected_s = 0.0  # CPU time of garbage collections since the last tick
        self._log_at = -math.inf
        self._unlogged = 0

    def start(self) -> None:
        """Watch the running event loop, from its thread."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._at, self._used = self._clock(), self._cpu()
        self._schedule()
        gc.callbacks.append(self._note_collection)
        threading.Thread(target=self._watch, name="loop-watch", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer."""
        if self._loop is None:
            return
        self._loop = None
        self._stopped.set()
        gc.callbacks.remove(self._note_collection)
        if self._timer is not None:
            self._timer.cancel()

    # -- in the loop's thread ------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._loop is not None:
            self._due = self._clock() + TICK_S
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._runner = sys._getframe(1).f_code
        self.tick()
        self._schedule()

    def tick(self) -> None:
        """The event loop runs other steps. Call it every `TICK_S`."""
        now, used = self._clock(), self._cpu()
        elapsed, busy = now - self._at, used - self._used
        # Of a loop that was busy before, the time before the tick was due may belong to other steps.
        held = busy - self._share * min(TICK_S, elapsed)
        self._at, self._used = now, used
        self._share = min(1.0, busy / elapsed) if elapsed > 0 else 0.0
        if held > self.longest_s:
            self.longest_s = held
        if held >= HELD_S:
            self.holds += 1
            self._log(held, now)
        if self._places:
            self._places = Counter()
        self._collected_s = 0.0

    def _log(self, held: float, now: float) -> None:
        if now < self._log_at:
            self._unlogged += 1
            return
        more = f"; {self._unlogged} more since the last such line" if self._unlogged else ""
        log.warning("the event loop was held for %.0f ms by %s%s", 1000 * held, self._holder(held), more)
        self._log_at, self._unlogged = now + LOG_EVERY_S, 0

    def _holder(self, held: float) -> str:
        """What took most of a step's time, as far as it was seen."""
        place = self._places.most_common(1)[0][0] if self._places else UNKNOWN
        return f"garbage collection in {place}" if self._collected_s > held / 2 else place

    def _note_collection(self, phase: str, info: dict[str, Any]) -> None:
        if info["generation"] < 2 or threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._collecting_since = self._cpu()
        else:
            self._collected_s += self._cpu() - self._collecting_since

    # -- in the watcher's thread ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        wait_s = TICK_S
        while not self._stopped.wait(wait_s):
            late = self._clock() - self._due - SLACK_S
            wait_s = -late if late < 0 else SAMPLE_S
            if late >= 0 and self._places.total() < MAX_SAMPLES:
                self.sample(frame_of(self._thread))

    def sample(self, frame: FrameType | None) -> None:
        """Note where the loop's thread is."""
        place = place_of(frame, self._runner)
        if place:
            self._places[place] += 1

    def __repr__(self) -> str:
        return f"<LoopWatch holds={self.holds} longest_s={self.longest_s:.3f}>"


def frame_of(thread: int) -> FrameType | None:
    """The frame in which a thread is, by its id.

    A garbage collection inside of `sys._current_frames` would stop the process for ever, in Python up to 3.12.0: it
    lets another thread run, which may wait for the lock that this call holds. So there is none meanwhile.

    Source: CPython's issue 106883.
    """
    with _collecting:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames().get(thread)
        finally:
            if was_enabled:
                gc.enable()


def place_of(frame: FrameType | None, runner: CodeType | None = None) -> str:
    """Where a thread is in this program: the function that the event loop called, and the one that runs; "" if unknown.

    runner: of the function that runs the event loop, where the search ends.
    """
    own: list[tuple[str, str]] = []  # (function, place) of the functions of this package, the innermost first
    while frame is not None and frame.f_code is not runner:
        module = frame.f_globals.get("__name__", "")
        if module == PACKAGE or module.startswith(f"{PACKAGE}."):
            own.append((f"{module}.{frame.f_code.co_qualname}", f"{_file(frame.f_code)}:{frame.f_lineno}"))
        frame = frame.f_back
    if not own:
        return ""
    (inner, line), (outer, _) = own[0], own[-1]
    return f"{outer} ({line})" if inner == outer else f"{outer}, in {inner} ({line})"


def _file(code: CodeType) -> str:
    path = Path(code.co_filename)
    return str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else path.name
