"""What goes on behind: tasks by name, each held until it ends, none of which may end by a defect without a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

log = logging.getLogger("hierarchy.tasks")


class BackgroundTasks:
    """The running tasks of one owner, who cancels them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(set(self._tasks))

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run it until it ends, or is cancelled by its name."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def cancel(self, name: str) -> None:
        """Cancel the tasks of that name."""
        for task in self:
            if task.get_name() == name:
                task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.critical(
                "%s ended by a defect; this node is no longer whole", task.get_name(), exc_info=task.exception()
            )

    def __repr__(self) -> str:
        return f"<BackgroundTasks {', '.join(sorted(task.get_name() for task in self))}>"
