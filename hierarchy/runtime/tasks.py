"""Background tasks: held until they end, cancelled by name, and logged if they fail.

A task that a node needs for as long as it runs is started with `keep`: whatever goes wrong in it is logged, and it goes
on after a moment. Such a task reads what other machines sent, and no message may end it for good.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from hierarchy.errors import describe

FIRST_WAIT_S = 0.5  #: before a task that failed goes on; doubled each time
MAX_WAIT_S = 30.0
RECENT_S = 600.0  #: for which a failure is a warning in `/tree`
log = logging.getLogger("hierarchy.tasks")


class BackgroundTasks:
    """The running tasks of one owner, which cancels them. An exception in any of them is logged as critical.

    clock: monotonic seconds. sleep: between a failure and the next attempt.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        # The event loop itself keeps only weak references: a task that nothing else holds may be collected.
        self._tasks: dict[str, set[asyncio.Task[Any]]] = {}  # by name: a node may have thousands
        self._clock = clock
        self._sleep = sleep
        self._failures: dict[str, _Failures] = {}  # by the name of what failed

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        """A snapshot of the running tasks."""
        return iter([task for tasks in self._tasks.values() for task in tasks])

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Run a coroutine in the background until it ends or is cancelled. Needs a running event loop."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.setdefault(name, set()).add(task)
        task.add_done_callback(self._ended)

    def keep(self, work: Callable[[], Coroutine[Any, Any, object]], name: str) -> None:
        """Run `work` in the background until it returns or is cancelled; if it fails, run it again after a moment."""
        self.spawn(self._keep(work, name), name)

    def guard(self, step: Callable[[], object], name: str) -> None:
        """Call `step`, one of several in a loop: if it fails, the others are called all the same."""
        try:
            step()
        except Exception as error:
            self._note(name, error)

    def warnings(self) -> list[str]:
        """What failed lately, for operators."""
        now = self._clock()
        return [
            f"{name} failed {failed.count} times, the last time with {failed.reason}; see the log of this node"
            for name, failed in self._failures.items()
            if now < failed.last_at + RECENT_S
        ]

    def forget(self, keep_s: float) -> None:
        """Call it now and then: forget what failed for the last time `keep_s` seconds ago. Names of tasks differ."""
        now = self._clock()
        self._failures = {name: failed for name, failed in self._failures.items() if now < failed.last_at + keep_s}

    def cancel(self, name: str) -> None:
        """Cancel all tasks of that name."""
        for task in list(self._tasks.get(name, ())):
            task.cancel()

    def cancel_all(self) -> None:
        """Cancel all tasks."""
        for task in self:
            task.cancel()

    async def _keep(self, work: Callable[[], Coroutine[Any, Any, object]], name: str) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            began = self._clock()
            try:
                await work()
                return
            except Exception as error:
                if self._clock() - began > RECENT_S:
                    wait_s = FIRST_WAIT_S
                self._note(f"background task {name}", error)
            await self._sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_WAIT_S)

    def _note(self, name: str, error: Exception) -> None:
        """Count a failure. The log has each kind once, with its traceback."""
        failed = self._failures.setdefault(name, _Failures())
        failed.count += 1
        failed.last_at = self._clock()
        failed.reason = f"{type(error).__name__}: {describe(error)[:200]}"
        if failed.is_new(error):
            log.error("%s failed (%s); it goes on", name, failed.reason, exc_info=error)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        tasks = self._tasks[task.get_name()]
        tasks.discard(task)
        if not tasks:
            del self._tasks[task.get_name()]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical(
                "background task %s failed: this node may not work fully until it is restarted",
                task.get_name(),
                exc_info=error,
            )

    def __repr__(self) -> str:
        return f"<BackgroundTasks {', '.join(sorted(task.get_name() for task in self))}>"


class _Failures:
    """What went wrong in one task."""

    def __init__(self) -> None:
        self.count = 0
        self.last_at = 0.0
        self.reason = ""  # of the last one
        self._logged: set[tuple[str, int]] = set()  # where it went wrong: others choose the text of an error

    def is_new(self, error: Exception) -> bool:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = (type(error).__name__, trace.tb_lineno if trace is not None else 0)
        is_new = place not in self._logged
        self._logged.add(place)
        return is_new
