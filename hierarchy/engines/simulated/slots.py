"""The slots of the batch, and the queue for them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """Lets `capacity` requests run at once; others wait, first come, first served. Counts both by model."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.running: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        self._free = asyncio.Semaphore(capacity)

    def __repr__(self) -> str:
        return f"<Slots {self.running.total()}/{self.capacity} running, {self.waiting.total()} waiting>"

    @property
    def queue_length(self) -> int:
        """Requests that run or wait."""
        return self.running.total() + self.waiting.total()

    @asynccontextmanager
    async def hold(self, model: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it. The slot is free again however the caller ends, cancellation included."""
        self.waiting[model] += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting[model] -= 1
        self.running[model] += 1
        try:
            yield
        finally:
            self.running[model] -= 1
            self._free.release()
