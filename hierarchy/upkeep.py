"""The files of a running node: what others changed in them is read, and what this node must remember is written.

Each file has a task here and a thread in `runtime.disk`, so that a disk which hangs stops neither requests nor any
other file. What a stuck file would have said or kept is then missing, and nothing else: keys expire and children are
disconnected all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterator

from hierarchy.gossip import Board
from hierarchy.registry.known_models import KnownModels
from hierarchy.registry.model_file import UNSAVED, ModelFile
from hierarchy.runtime.tasks import BackgroundTasks
from hierarchy.security.access import Access

CHECK_S = 0.5  # between two looks at a file
LAST_S = 2.0  # for what is to be written at the end of the node
Look = Callable[[], Awaitable[object]]


class Upkeep:
    """Looks after the files of one node."""

    def __init__(
        self,
        access: Access,
        board: Board,
        models: ModelFile | None,
        known: KnownModels,
        clock: Callable[[], float],
        keys_changed: Callable[[], None],
    ) -> None:
        """
        Args:
            models: the file of the known models; None for none.
            clock: monotonic seconds.
            keys_changed: called when clients' keys were added or removed.
        """
        self._access = access
        self._board = board
        self._models = models
        self._models_file = access.disk.file(models.path, UNSAVED) if models is not None else None
        self._known = known
        self._clock = clock
        self._keys_changed = keys_changed

    def start(self, tasks: BackgroundTasks) -> None:
        """Look at each file until its task is cancelled."""
        tasks.spawn(self._try_to_write(), "a first write")
        for name, look in self._looks():
            tasks.keep(functools.partial(_repeat, look), f"file of {name}")

    async def finish(self) -> None:
        """Write what is not written yet, for at most `LAST_S`."""
        looks = (self._board.save(), self._access.registration_policy.refresh(), self._save_models(at_once=True))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                await asyncio.gather(*looks)

    async def _try_to_write(self) -> None:
        """Say at the start that the disk is full, and not only when a child wants to join."""
        records, credentials = self._access.registration_policy.records, self._access.credentials
        if records is not None:
            await records.try_to_write()
        if credentials:
            await credentials.try_to_write()

    def _looks(self) -> Iterator[tuple[str, Look]]:
        access = self._access
        yield "clients' keys", self._client_keys
        yield "operators' keys", access.refresh_admin_keys
        yield "certificate", access.refresh_tls
        yield "used tokens", access.registration_policy.refresh
        yield "shared records", self._board.refresh
        if access.credentials is not None:
            yield "credential", access.credentials.refresh
        if self._models is not None:
            yield "models", self._save_models

    async def _client_keys(self) -> None:
        if await self._access.refresh_client_keys():
            self._keys_changed()

    async def _save_models(self, *, at_once: bool = False) -> None:
        file, thread, now = self._models, self._models_file, self._clock()
        if file is None or thread is None:
            return
        ages = self._known.ages(now)
        if file.differs(ages.keys()) if at_once else file.is_due(ages.keys(), now):
            with contextlib.suppress(TimeoutError):  # the log has it already
                await thread.run(lambda: file.write(ages))


async def _repeat(look: Look) -> None:
    while True:
        await asyncio.sleep(CHECK_S)
        await look()
