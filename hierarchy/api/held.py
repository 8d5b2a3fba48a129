"""Requests of the HTTP API that are held while no child serves their model, as those on the data path are."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from fastapi import Request

from hierarchy.errors import RequestError
from hierarchy.labels import Requirement
from hierarchy.relay.waiting_room import WaitingRoom


class HeldRequest:
    """One request, whose body has been read. It is held for a limited time altogether, however often."""

    def __init__(self, room: WaitingRoom, request: Request) -> None:
        self.held_until = 0.0
        self._room = room
        self._request = request
        self._again = asyncio.Event()

    def try_again(self, now: float) -> None:
        """Let `wait` return."""
        self._again.set()

    async def wait(self, names: Collection[str], error: RequestError, require: Requirement | None = None) -> bool:
        """Wait until there may be a child for one of the models. Returns False if there is no point in waiting.

        error: why there is no child now. It is returned at once where waiting is not worthwhile, or the time is over,
        and as soon as the client leaves. require: labels that the child must have; None for none.
        """
        if not self._room.hold(self, names, sum(map(len, names)), error, require):
            return False
        again, gone = asyncio.ensure_future(self._again.wait()), asyncio.ensure_future(self._client_leaves())
        left_s = max(0.0, self.held_until - self._room.now())  # for a room that nobody sweeps
        try:
            await asyncio.wait({again, gone}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            return not gone.done()
        finally:
            again.cancel()
            gone.cancel()
            self._again.clear()
            self._room.leave(self)

    async def _client_leaves(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
