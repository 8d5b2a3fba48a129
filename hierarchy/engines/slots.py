"""How many requests an engine runs at once: as the configuration says, as the engine does, or as it is seen to.

What is seen counts more than what the engine reports: memory may run out before its limit is reached. Where requests
wait in each of some probes, those that run are all that it runs at once. Where none waits, and as many run as were
seen to, there may be room for more, which is tried.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Final

import msgspec

from hierarchy.engines.adapters.limits import LIMITS, MAX_SLOTS, usable
from hierarchy.engines.adapters.reading import Adapter, EngineHttp
from hierarchy.errors import EngineUnreadable
from hierarchy.runtime import awake
from hierarchy.wire.status import NodeStatus

PROBES: Final = 3  # in which requests have to wait: in one alone they may have come a moment ago
GROWTH: Final = 1.25  # by which more are tried, and at least by one
ASK_TIMEOUT_S: Final = 0.5  # for the limit, out of the 2.5 s after which a probe is late
ASK_AGAIN_S: Final = 60.0  # if the engine had no time to answer


class Concurrency:
    """How many requests an engine has been seen to run at once.

    Attributes:
        slots: 0 while that is unknown.
    """

    def __init__(self) -> None:
        self.slots = 0
        self._probes = 0  # in a row, in which requests waited
        self._most = 0  # requests that ran in one of them

    def note(self, running: int, waiting: int, told: int) -> int:
        """A probe has seen so many. told: as the engine reports; 0: unknown. Returns the slots; 0 if unknown."""
        if waiting > 0 and running > 0:
            self._note_full(running, told)
        else:
            self._note_room(running, told)
        return max(self.slots or told, running) if self.slots or told else 0

    def _note_full(self, running: int, told: int) -> None:
        self._probes += 1
        self._most = max(self._most, running)
        if self._probes < PROBES:
            return
        # At most by half at a time: a single long prompt may keep others from running for some seconds.
        self.slots = max(self._most, (self.slots or told) // 2)
        self._probes = self._most = 0

    def _note_room(self, running: int, told: int) -> None:
        self._probes = self._most = 0
        if self.slots and running >= self.slots:
            self.slots = min(MAX_SLOTS, max(running + 1, math.floor(running * GROWTH)))
        if told and self.slots >= told:
            self.slots = 0  # it runs as many as it reports

    def __repr__(self) -> str:
        return f"<Concurrency slots={self.slots}>"


class WithSlots:
    """An `Adapter` for one engine: what another one reads, and the engine's slots.

    declared: as the configuration says; 0: the engine is asked, and watched. clock: monotonic seconds.
    """

    def __init__(self, adapter: Adapter, declared: int, clock: Callable[[], float]) -> None:
        self.kind = adapter.kind
        self._adapter = adapter
        self._declared = declared
        self._clock = clock
        self._forget()

    def _forget(self) -> None:
        self._told: int | None = None  # as the engine reported when it was asked; None: it has not been asked
        self._ask_at = -math.inf
        self._seen = Concurrency()

    async def read(self, http: EngineHttp, speed: float) -> NodeStatus:
        """See `Adapter.read`."""
        try:
            status = await self._adapter.read(http, speed)
        except (EngineUnreadable, OSError):
            self._forget()  # the next process may have other limits
            raise
        if self._declared:
            return _with(status, self._declared)
        reported = [usable(model.slots) for model in status.models]
        told = max(reported, default=0) or await self._ask(http)
        if status.waiting < 0:  # what waits is not known
            return status if any(reported) else _with(status, told)
        running = min(status.queue_length, MAX_SLOTS) - status.waiting
        return _with(status, self._seen.note(max(0, running), status.waiting, told))

    async def _ask(self, http: EngineHttp) -> int:
        """The engine's limit; it is asked once for each process."""
        ask = LIMITS.get(self.kind)
        if self._told is None and ask is not None and self._clock() >= self._ask_at:
            self._ask_at = self._clock() + ASK_AGAIN_S
            with contextlib.suppress(EngineUnreadable, OSError, TimeoutError):
                async with awake.timeout(ASK_TIMEOUT_S):
                    self._told = await ask(http)
        return self._told or 0

    def __repr__(self) -> str:
        return f"<WithSlots {self.kind} declared={self._declared} told={self._told} seen={self._seen.slots}>"


def _with(status: NodeStatus, slots: int) -> NodeStatus:
    """A status in which each model has these slots: all of them run on one machine."""
    if all(model.slots == slots for model in status.models):  # nearly always, and there may be thousands
        return status
    models = tuple([msgspec.structs.replace(model, slots=slots) for model in status.models])
    return msgspec.structs.replace(status, models=models)
