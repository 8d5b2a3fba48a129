"""Which models a simulated engine has in memory, as Ollama and llama.cpp's router keep them.

A request for another model loads it, which takes a while, and puts the one away that was used least recently, as soon
as no request uses it.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager


class Memory:
    """Room for some models.

    most: models at once; infinite for an engine that has all of them in memory. load_s: how long it takes to load one.
    """

    def __init__(self, most: float = math.inf, load_s: float = 0.0) -> None:
        self.most = most
        self.load_s = load_s
        self.loads = 0  # models that were loaded, ever
        self.loaded: list[str] = []  # the one used last at the end
        self._loading: dict[str, asyncio.Event] = {}
        self._used: Counter[str] = Counter()  # by requests
        self._taken = 0  # places of models that are being loaded
        self._freed = asyncio.Event()

    def fill(self, models: Iterable[str]) -> None:
        """An engine that has all of its models in memory, has these."""
        if self.most == math.inf:
            self.loaded = list(models)

    def state(self, model: str) -> str:
        """`loaded`, `loading` or `unloaded`."""
        return "loaded" if model in self.loaded else "loading" if model in self._loading else "unloaded"

    @asynccontextmanager
    async def hold(self, model: str) -> AsyncIterator[None]:
        """Wait until a model is loaded, and keep it there meanwhile."""
        self._used[model] += 1
        try:
            await self._load(model)
            yield
        finally:
            self._used[model] -= 1
            self._freed.set()

    async def _load(self, model: str) -> None:
        while model not in self.loaded:
            loading = self._loading.get(model)
            if loading is not None:
                await loading.wait()
                continue
            loading = self._loading[model] = asyncio.Event()
            try:
                await self._load_into_room(model)
            finally:
                del self._loading[model]
                loading.set()
        if self.most != math.inf:
            self.loaded.remove(model)
            self.loaded.append(model)

    async def _load_into_room(self, model: str) -> None:
        await self._make_room()
        self._taken += 1
        try:
            await asyncio.sleep(self.load_s)
            self.loads += 1
            self.loaded.append(model)
        finally:
            self._taken -= 1
            self._freed.set()

    async def _make_room(self) -> None:
        while len(self.loaded) + self._taken >= self.most:
            idle = next((name for name in self.loaded if not self._used[name]), None)
            if idle is not None:
                self.loaded.remove(idle)
                continue
            self._freed.clear()
            await self._freed.wait()

    def __repr__(self) -> str:
        return f"<Memory {self.loaded} loads={self.loads}>"
