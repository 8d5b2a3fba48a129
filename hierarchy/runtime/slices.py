"""Long work in slices, so that no request waits for the end of it.

It runs on the event loop and gives way whenever a slice is over. All long work of a node together gets one slice in
each turn of the loop, so that ten long responses delay the others no more than one.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from hierarchy.runtime.steps import Steps

SLICE_S = 0.002  # of long work in one turn of the event loop
SWITCH_S = 0.001  # for which a thread holds Python's interpreter while the event loop waits for it; else 5 ms
CHUNK_BYTES = 256 * 1024  # of a long text that is sent while it is made
T = TypeVar("T")


def shorten_switches() -> None:
    """Let threads give way sooner: what they compute holds the event loop up each time that it wakes."""
    sys.setswitchinterval(SWITCH_S)


async def in_turns(steps: Steps[T]) -> T:
    """The result of work whose steps are slices themselves."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)


class Slices:
    """The long work of one node, in turns.

    clock: seconds of this process. slice_s: how long a slice is.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, slice_s: float = SLICE_S) -> None:
        self._clock = clock
        self._slice_s = slice_s
        self._turn = asyncio.Lock()  # whoever waits for it gets it in the order of asking

    async def run(self, steps: Steps[T], slice_of: Callable[[], AbstractContextManager[None]] = nullcontext) -> T:
        """The result of long work. What it reads may change between two of its steps.

        slice_of: each slice is done inside of what it returns, which may measure it.
        """
        while True:
            async with self._turn:
                until = self._clock() + self._slice_s
                try:
                    with slice_of():
                        while self._clock() < until:
                            next(steps)
                except StopIteration as end:
                    result: T = end.value
                    return result
            await asyncio.sleep(0)

    async def stream(self, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        """A long text, in the chunks that came together in one slice."""
        done = False
        while not done:
            chunk: list[bytes] = []
            size = 0
            async with self._turn:
                until = self._clock() + self._slice_s
                while size < CHUNK_BYTES and self._clock() < until:
                    piece = next(pieces, None)
                    if piece is None:
                        done = True
                        break
                    chunk.append(piece)
                    size += len(piece)
            if chunk:
                yield b"".join(chunk)
            if not done:
                await asyncio.sleep(0)

    def __repr__(self) -> str:
        return f"<Slices {'busy' if self._turn.locked() else 'idle'}>"
