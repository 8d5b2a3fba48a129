"""Time in which this process could act: the measure by which a node judges others.

A node that was stopped, or whose event loop was blocked or starved, has not read what the others sent meanwhile. If its
own pause counted, it would take them for late. So the `AwakeClock` stops during a pause, and a `timeout` counts
hardly any of it. After a pause both wait for a moment, in which what waits in the sockets is read first.

    real time     ──────────────────────────────────────────────▶
    ticks         ╷ ╷ ╷ ╷ ╷          (stopped)         ╷ ╷ ╷ ╷ ╷
    AwakeClock    ──────────▶ (stopped)                  ──────▶

Times that others see do not come from here: a token expires by the wall clock.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

TICK_S: Final = 0.1  # between two ticks of a loop that is not late
AHEAD_S: Final = 0.3  # how far a reading may be ahead of the last tick: this much of a pause counts, at most
STEP_S: Final = 0.5  # in which a `timeout` counts: this much of a pause counts, at most
LATE_S: Final = 0.2  # by which a step is late after a pause
SETTLE_S: Final = 0.2  # for which a `timeout` waits after a pause, so that what waits in the sockets is read first
NOTABLE_S: Final = 1.0  # a pause that is logged
LOG_EVERY_S: Final = 60.0  # one line for all pauses of this time
log = logging.getLogger("hierarchy.node")


class AwakeClock:
    """Monotonic seconds, without the pauses of this process once `run` runs. It never goes back.

    source: real monotonic seconds.
    """

    def __init__(self, source: Callable[[], float] = time.monotonic) -> None:
        self.paused_s = 0.0  # that were not counted
        self.lag_s = 0.0  # by which ticks were late, in total
        self._source = source
        self._limit = math.inf  # no reading is higher before the next tick
        self._expected_at = math.inf  # real time of the next tick
        self._settles = False  # the last tick came after a pause
        self._unlogged_s = 0.0  # of pauses
        self._log_at = -math.inf  # real time from which on the next pause may be logged

    def __call__(self) -> float:
        """The time. Called several times per request."""
        now = self._source() - self.paused_s
        limit = self._limit
        return now if now < limit else limit

    async def run(self) -> None:
        """Tick until cancelled. From then on nothing counts as a pause."""
        self.tick()
        try:
            while True:
                await asyncio.sleep(TICK_S)
                self.tick()
        finally:
            self._limit = self._expected_at = math.inf

    def tick(self) -> None:
        """The event loop runs. Call it every `TICK_S`."""
        real = self._source()
        self.lag_s += max(0.0, real - self._expected_at)
        self._expected_at = real + TICK_S
        excess = real - self.paused_s - self._limit
        if excess > 0:
            self._note_pause(excess, real)
            if not self._settles:  # the clock waits until the next tick
                self._settles = True
                return
        self._settles = False
        self._limit = real - self.paused_s + AHEAD_S

    def _note_pause(self, excess: float, real: float) -> None:
        self.paused_s += excess
        self._unlogged_s += excess
        if self._unlogged_s >= NOTABLE_S and real >= self._log_at:
            log.warning(
                "this node stood still for %.1f s (stopped, or short of processor time); it counts against nobody",
                self._unlogged_s,
            )
            self._unlogged_s, self._log_at = 0.0, real + LOG_EVERY_S

    def __repr__(self) -> str:
        return f"<AwakeClock {self():.3f} paused_s={self.paused_s:.3f}>"


class timeout:  # noqa: N801  # as asyncio.timeout
    """As `asyncio.timeout`, but a pause of this process counts for `STEP_S` at most, and ends no wait by itself."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._scope = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._settled = False  # it has waited for a moment after a pause

    async def __aenter__(self) -> timeout:
        await self._scope.__aenter__()
        self._wait(min(self._left, STEP_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._scope.__aexit__(kind, error, trace)  # raises TimeoutError if the time is over

    def expired(self) -> bool:
        """Is the time over?"""
        return self._scope.expired()

    def _wait(self, step_s: float) -> None:
        self._left -= step_s
        self._due = self._loop.time() + step_s
        self._timer = self._loop.call_at(self._due, self._step)

    def _step(self) -> None:
        if self._left > 0:
            self._wait(min(self._left, STEP_S))
        elif self._loop.time() - self._due > LATE_S and not self._settled:
            self._settled = True
            self._left = SETTLE_S
            self._wait(SETTLE_S)
        else:
            self._scope.reschedule(self._loop.time())
