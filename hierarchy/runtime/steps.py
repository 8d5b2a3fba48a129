"""Long work as a generator, which yields after each small part and returns its result.

`at_once` runs it to the end, for callers that have nobody to give way to; `runtime.slices` runs it on the event loop.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]  #: long work; yields where others may run, and returns its result


def at_once(steps: Steps[T]) -> T:
    """The result of long work."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
