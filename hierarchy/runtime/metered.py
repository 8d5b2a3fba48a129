"""How much CPU time a coroutine takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Metered(Generic[T]):
    """Awaits a coroutine, and adds up the CPU time of its steps; the waits between them are not in it.

    Attributes:
        cpu_s: seconds so far. What the event loop and the callbacks of transports take for it is not seen.
    """

    def __init__(self, work: Coroutine[Any, Any, T], clock: Callable[[], float] = time.thread_time) -> None:
        """
        Args:
            clock: seconds of this thread's CPU time.
        """
        self.cpu_s = 0.0
        self._work = work
        self._clock = clock

    async def run(self) -> T:
        """The coroutine's result. Raises what it raises."""
        return await self

    def __await__(self) -> Generator[Any, Any, T]:
        resume: Callable[[Any], Any] = self._work.send
        value: Any = None
        while True:
            began = self._clock()
            try:
                waits_for = resume(value)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self.cpu_s += self._clock() - began
            try:
                resume, value = self._work.send, (yield waits_for)
            except BaseException as error:
                resume, value = self._work.throw, error
