"""How many slots are idle while requests for the same model wait at other engines: what balancing could have saved."""

from __future__ import annotations

from collections.abc import Iterable

from hierarchy.simulation.events import Events


class Queues:
    """Slots and waiting requests of all engines, by model, over time."""

    def __init__(self, events: Events) -> None:
        self.idle_s = 0.0  # slots that were idle though requests waited for one, over time
        self.slots_s = 0.0  # all slots, over time
        self._events = events
        self._slots = 0
        self._free: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._counted_at = 0.0

    def add(self, models: Iterable[str], slots: int) -> None:
        """An engine has come, or gone (less than 0)."""
        self.count()
        self._slots += slots
        for model in models:
            self._free[model] = self._free.get(model, 0) + slots
            self._waiting.setdefault(model, 0)

    def run(self, models: Iterable[str], change: int) -> None:
        """So many more requests run at an engine with these models."""
        self.count()
        for model in models:
            self._free[model] -= change

    def wait(self, model: str, change: int) -> None:
        """So many more requests wait for a slot."""
        self.count()
        self._waiting[model] += change

    def count(self) -> None:
        """Bring the sums up to date."""
        now = self._events.now
        passed = now - self._counted_at
        if passed <= 0.0:
            return
        self._counted_at = now
        self.slots_s += self._slots * passed
        free = self._free
        for model, waiting in self._waiting.items():
            if waiting and free[model]:
                self.idle_s += min(waiting, free[model]) * passed

    def __repr__(self) -> str:
        return f"<Queues free={self._free} waiting={self._waiting}>"
