"""Fair turns: no connection keeps the event loop for itself, whatever it sends.

A read of uvloop's brings up to 256,000 bytes, and libuv makes up to 32 reads of one connection before it looks at the
next. Thousands of small requests, chunks or events fit into one read. So what a long read brings is processed in
pieces, and at most for `TURN_S` in each turn of the loop, by all connections together. What is left waits in one queue,
where each connection gets one piece at a time, and its transport does not read meanwhile.

    read ──▶ pieces ──time is over──▶ kept, transport paused ──▶ queue ──one piece each──▶ nothing left, transport reads

Reads of at most `PIECE` bytes, which nearly all are, do not come here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from hierarchy.relay.held_bytes import HeldBytes

TURN_S: Final = 0.002  # of each turn of the loop: reads, and then the queue, have so much
#: bytes of the first piece of a read: 64 of the shortest requests, about a millisecond
PIECE: Final = 2048
#: bytes of a piece when the pieces before it had little in them: 2,700 of the shortest chunks
MAX_PIECE: Final = 16 * 1024
FEW: Final = 4  # messages and pieces of bodies in a piece that count as little
FULL: Final = 128 * 1024  # bytes of a read behind which more waits in the kernel, most likely
STOP: Final = -1  # returned by `take`: nothing is processed any more, so what is left is dropped


class Turns:
    """The queue of one node: what has used up its turn, and goes on in the next ones.

    clock: monotonic seconds, of real time. call_soon: runs a function in the next turn of the loop; by default the
    event loop's.
    """

    def __init__(
        self,
        held: HeldBytes | None = None,
        clock: Callable[[], float] = time.perf_counter,
        call_soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.held = held if held is not None else HeldBytes()  # counts what is kept
        self.clock = clock
        self._call_soon = call_soon or (lambda work: asyncio.get_running_loop().call_soon(work))
        self._queue: deque[Reading] = deque()
        self._scheduled = False
        self._ends_at = 0.0  # of the time for reads in this turn of the loop; 0: none has come yet

    @property
    def waiting(self) -> int:
        """Number of connections in the queue."""
        return len(self._queue)

    def ends_at(self) -> float:
        """Until when reads are processed at once, in this turn of the loop."""
        if not self._ends_at:
            self._ends_at = self.clock() + TURN_S
            self._schedule()
        return self._ends_at

    def add(self, reading: Reading) -> None:
        """Let it go on in a later turn."""
        self._queue.append(reading)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._run)

    def _run(self) -> None:
        """One turn: a piece of each in the queue, until the time is over."""
        self._scheduled = False
        self._ends_at = 0.0
        queue = self._queue
        if not queue:
            return
        ends_at = self.clock() + TURN_S
        try:
            while queue:
                if queue.popleft().go_on() and self.clock() >= ends_at:
                    break
        finally:
            if queue:
                self._schedule()

    def __repr__(self) -> str:
        return f"<Turns waiting={len(self._queue)}>"


class Reading:
    """What one connection reads, in pieces, and whether it reads at all.

    take: processes the next bytes. Returns how many messages and pieces of bodies were in them, or `STOP`.
    """

    def __init__(self, turns: Turns, take: Callable[[bytes], int]) -> None:
        self.transport: asyncio.Transport | None = None  # until the connection is open, and behind its end
        self.keeps = False  # bytes, or a turn, are due: what comes next waits behind them
        self.paused = False  # by its owner: what is kept is not processed either
        self._turns = turns
        self._take = take
        self._rest = b""  # the bytes that are kept, from `_at` on
        self._at = 0
        self._charged = 0  # of them, in `turns.held`
        self._piece = PIECE
        self._queued = False

    @property
    def rest(self) -> int:
        """Bytes that were read and not processed."""
        return len(self._rest) - self._at

    # -- bytes -------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Process a long read, as far as there is time, and keep the rest."""
        if self.keeps:
            self._rest = self._rest[self._at :] + data if self._rest else data
            self._at = 0
            self._keep()
            return
        self._rest, self._at, self._piece = data, 0, PIECE
        turns = self._turns
        ends_at = turns.ends_at()
        while turns.clock() < ends_at:
            if not self._step():
                break
        if self._rest or len(data) >= FULL:
            self._keep()

    def yield_turn(self) -> None:
        """A read was processed; let all others have their turn before the next one."""
        if not self.keeps:
            self._keep()

    def go_on(self) -> bool:
        """Its turn has come: process one piece. Returns False if there was nothing to do."""
        self._queued = False
        if self.paused:
            return False
        worked = bool(self._rest)
        if worked and self._step() and not self.paused:
            self._enqueue()
        elif not self._rest:
            self._read_on()
        return worked

    def _step(self) -> bool:
        """Process the next piece. Returns whether another one may follow now."""
        rest, at = self._rest, self._at
        end = at + self._piece
        last = end >= len(rest)
        if last:
            piece = rest[at:] if at else rest
            self._rest, self._at = b"", 0
        else:
            piece = rest[at:end]
            self._at = end
        count = self._take(piece)
        if count == STOP:
            self._rest, self._at = b"", 0
            return False
        self._piece = PIECE if count > FEW else min(2 * self._piece, MAX_PIECE)
        return not last and bool(self._rest) and not self.paused

    def _keep(self) -> None:
        """Read no more until its turn has come."""
        if not self.keeps:
            self.keeps = True
            if not self.paused and self.transport is not None:
                self.transport.pause_reading()
        self._turns.held.change(self.rest - self._charged)
        self._charged = self.rest
        if not self.paused:
            self._enqueue()

    def _enqueue(self) -> None:
        if not self._queued:
            self._queued = True
            self._turns.add(self)

    def _read_on(self) -> None:
        """Nothing is kept: read again, unless the owner does not want to."""
        self._turns.held.change(-self._charged)
        self._charged = 0
        self.keeps = False
        if not self.paused and self.transport is not None:
            self.transport.resume_reading()

    # -- for the owner -----------------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Read no more, and process nothing of what was read."""
        if not self.paused:
            self.paused = True
            if not self.keeps and self.transport is not None:
                self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again; what was kept comes first."""
        if not self.paused:
            return
        self.paused = False
        if self.keeps:
            self._enqueue()
        elif self.transport is not None:
            self.transport.resume_reading()

    def hand_over(self) -> None:
        """The transport has another owner from here on, and reads."""
        if (self.keeps or self.paused) and self.transport is not None:
            self.transport.resume_reading()
        self.close()

    def close(self) -> None:
        """The connection is gone: drop what is kept."""
        self.transport = None
        self._rest, self._at = b"", 0
        self._turns.held.change(-self._charged)
        self._charged = 0

    def __repr__(self) -> str:
        state = "paused" if self.paused else "waiting" if self.keeps else "reading"
        return f"<Reading {state} kept={self.rest}>"
