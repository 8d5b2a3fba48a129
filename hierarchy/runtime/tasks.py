"""Background tasks: held until they end, cancelled by name, and logged if they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

log = logging.getLogger("hierarchy.tasks")


class BackgroundTasks:
    """The running tasks of one owner, which cancels them. An exception in any of them is logged as critical."""

    def __init__(self) -> None:
        # The event loop itself keeps only weak references: a task that nothing else holds may be collected.
        self._tasks: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        """A snapshot of the running tasks."""
        return iter(set(self._tasks))

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Run a coroutine in the background until it ends or is cancelled. Needs a running event loop."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def cancel(self, name: str) -> None:
        """Cancel all tasks of that name."""
        for task in self:
            if task.get_name() == name:
                task.cancel()

    def cancel_all(self) -> None:
        """Cancel all tasks."""
        for task in self:
            task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical(
                "background task %s failed: this node may not work fully until it is restarted",
                task.get_name(),
                exc_info=error,
            )

    def __repr__(self) -> str:
        return f"<BackgroundTasks {', '.join(sorted(task.get_name() for task in self))}>"
