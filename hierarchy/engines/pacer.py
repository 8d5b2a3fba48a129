"""When probes may begin, so that a node with thousands of engines spends a bounded part of a core on them.

A probe that is due takes a turn. With few engines that is at once. With many, turns follow each other as fast as the
CPU time that probes take allows, and an engine has its turn again when all others had theirs: their interval grows by
itself, up to `LONGEST_S`. An engine has at most one turn at a time, and no probe that has begun is thrown away.

    first line      engines that were not probed yet   FIRST_SHARE of a core; as many at a time as get answered
    regular line    all others                         SHARE of a core; engines in doubt have every second turn

A node that is short of CPU time looks at its lines late, and what it missed is not made up for. So all probes slow down
together, instead of asking more of a node and engines that cannot keep up.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Final

SHARE: Final = 0.12  # of a core, for engines that were probed before
FIRST_SHARE: Final = 0.5  # the same for first probes, besides: nothing is served before they have answers
MOST_SHARE: Final = 0.5  # where `LONGEST_S` needs more than `SHARE`
#: between two probes of an engine, unless the interval of the configuration is longer. Servers built on uvicorn close a
#: connection that is idle for 5 s.
LONGEST_S: Final = 4.0
CREDIT_S: Final = 0.005  # CPU time that may be saved up, so that few engines need not wait for each other
#: Probes begin at beats, several at a time: for one that is alone, to wake up the process costs more than all the rest.
BEATS: Final = 50  # a second
BEAT_S: Final = 1 / BEATS
AT_ONCE: Final = 4  # that begin in one step of the event loop: requests wait meanwhile
MISSED_S: Final = 0.05  # what is longer than this between two looks is not made up for
COST_S: Final = 0.001  # CPU time of a probe, before one was measured
#: CPU time of a probe, as a multiple of what its own code takes (`Metered`): the rest is the loop's and the system's
WHOLE: Final = 4.0
WEIGHT: Final = 1 / 16  # of the last probe in the mean
FEWEST: Final = 32  # first probes without an answer, at a time
MOST: Final = 1024
SOON_S: Final = 0.5  # an answer within this time shows that there is room for more
LATE_S: Final = 1.0  # an answer after this time shows that there are too many: engines may share a machine


def next_beat(at: float) -> float:
    """The first beat after a time of the event loop's clock."""
    return (math.floor(at * BEATS + 1e-6) + 1) / BEATS  # a little more: a float may be just below a beat


class Turn:
    """The leave for one probe to begin. `Pacer.end` gives it back."""

    __slots__ = ("began_at", "granted", "line")

    def __init__(self, line: Line) -> None:
        self.line = line
        self.began_at = 0.0
        self.granted: asyncio.Future[None] | None = None  # while it waits


class Line:
    """Turns that wait, and the CPU time that there is for them. Pure: the caller passes the time.

    share: of a core.
    """

    def __init__(self, share: float, now: float) -> None:
        self.cost_s = COST_S  # of a probe, the mean
        self._share = share
        self._credit_s = CREDIT_S  # CPU time that may be spent now
        self._refilled_at = now
        self._waiting: deque[Turn] = deque()
        self._hurried: deque[Turn] = deque()  # of engines in doubt; a turn may be in both
        self._hurries = False  # the last turn was one of an engine in doubt

    @property
    def is_empty(self) -> bool:
        """Does nothing wait?"""
        return not (self._waiting or self._hurried)

    def join(self, turn: Turn, *, hurry: bool) -> None:
        """Let a turn wait. It may join again to hurry."""
        (self._hurried if hurry else self._waiting).append(turn)

    def next(self) -> Turn | None:
        """Take out the next turn that still waits. Those of engines in doubt come first, but not twice in a row."""
        self._hurries = not self._hurries
        order = (self._hurried, self._waiting) if self._hurries else (self._waiting, self._hurried)
        for queue in order:
            while queue:
                turn = queue.popleft()
                if turn.granted is not None and not turn.granted.done():
                    return turn
        return None

    def refill(self, now: float, engines: int) -> None:
        """Time has passed. engines: that take turns in this line."""
        elapsed = min(now - self._refilled_at, MISSED_S)
        self._refilled_at = now
        share = max(self._share, min(engines * self.cost_s / LONGEST_S, MOST_SHARE))
        self._credit_s = min(self._credit_s + elapsed * share, max(CREDIT_S, share * BEAT_S, self.cost_s))

    @property
    def has_credit(self) -> bool:
        """Is there CPU time for another probe?"""
        return self._credit_s >= self.cost_s

    def spend(self) -> None:
        """A probe begins."""
        self._credit_s -= self.cost_s

    def measured(self, cost_s: float) -> None:
        """A probe took so much CPU time."""
        self.cost_s += WEIGHT * (cost_s - self.cost_s)


class Window:
    """How many first probes may be without an answer: as many as get answered soon. Pure.

    Silence does not make it smaller. What is dead answers nothing; what has too much to do answers late.
    """

    def __init__(self) -> None:
        self.size = FEWEST
        self._open: dict[Turn, None] = {}  # in the order in which they began
        self._halved_at = float("-inf")

    def has_room(self, now: float) -> bool:
        """May another one begin? Those that have waited for `SOON_S` do not count any more."""
        for turn in list(self._open):
            if now - turn.began_at < SOON_S:
                break
            del self._open[turn]
            self.size = min(self.size + 1, MOST)
        return len(self._open) < self.size

    def begin(self, turn: Turn) -> None:
        """A probe begins."""
        self._open[turn] = None

    def end(self, turn: Turn, now: float, *, answered: bool) -> None:
        """A probe has ended."""
        after_s = now - turn.began_at
        if self._open.pop(turn, turn) is None and answered and after_s < SOON_S:
            self.size = min(self.size + 1, MOST)
        elif answered and after_s >= LATE_S and now - self._halved_at >= LATE_S:
            self.size = max(self.size // 2, FEWEST)
            self._halved_at = now


class Pacer:
    """Gives turns to the probers of one node.

    Attributes:
        engines: that are probed; each prober counts itself.
    """

    def __init__(self, clock: Callable[[], float], *, share: float = SHARE) -> None:
        """
        Args:
            clock: monotonic seconds.
            share: of a core, for engines that were probed before.
        """
        self.engines = 0
        self._clock = clock
        now = clock()
        self._regular = Line(share, now)
        self._first = Line(max(share, FIRST_SHARE), now)
        self._window = Window()
        self._spare = 0  # probes over a second connection
        self._looks = False  # `_look` will be called

    def ask(self, *, first: bool = False, hurry: bool = False) -> Turn:
        """A turn, to be waited for. first: of an engine that was not probed yet. hurry: of one that is in doubt."""
        line = self._first if first else self._regular
        turn = Turn(line)
        self._refill()
        if line.is_empty and self._has_room(line):
            self._begin(turn)
        else:
            turn.granted = asyncio.get_running_loop().create_future()
            line.join(turn, hurry=hurry)
            self._look_soon()
        return turn

    async def wait(self, turn: Turn) -> None:
        """Wait until the probe may begin."""
        if turn.granted is not None:
            await turn.granted

    def hurry(self, turn: Turn) -> None:
        """Give this turn, which waits, before those of engines that are not in doubt."""
        turn.line.join(turn, hurry=True)

    def end(self, turn: Turn, cpu_s: float, *, answered: bool) -> None:
        """A probe has ended. cpu_s: that its own code took. answered: whether with an answer, or refused."""
        turn.line.measured(WHOLE * cpu_s)
        if turn.line is self._first:
            self._window.end(turn, self._clock(), answered=answered)

    def begin_spare(self) -> bool:
        """May a late probe try a second connection? Not if many do: that would make it worse. Then call `end_spare`."""
        if self._spare >= max(FEWEST, self.engines // 16):
            return False
        self._spare += 1
        return True

    def end_spare(self) -> None:
        """A second connection is not waited for any longer."""
        self._spare -= 1

    # -- inside --------------------------------------------------------------------------------------------------

    def _refill(self) -> None:
        now = self._clock()
        self._first.refill(now, 0)
        self._regular.refill(now, self.engines)

    def _has_room(self, line: Line) -> bool:
        return line.has_credit and (line is self._regular or self._window.has_room(self._clock()))

    def _begin(self, turn: Turn) -> None:
        turn.began_at = self._clock()
        turn.line.spend()
        if turn.line is self._first:
            self._window.begin(turn)

    def _look_soon(self) -> None:
        if not self._looks:
            self._looks = True
            loop = asyncio.get_running_loop()
            loop.call_at(next_beat(loop.time()), self.look)

    def look(self) -> int:
        """Give turns to those that wait, and look again while some do. Returns how many were given."""
        self._looks = False
        self._refill()
        given = self._give_turns(AT_ONCE)
        if given == AT_ONCE:
            self._looks = True
            asyncio.get_running_loop().call_soon(self.look)
        elif not (self._first.is_empty and self._regular.is_empty):
            self._look_soon()
        return given

    def _give_turns(self, most: int) -> int:
        given = 0
        for line in (self._first, self._regular):
            while given < most and self._has_room(line) and (turn := line.next()) is not None:
                self._begin(turn)
                if turn.granted is not None:
                    turn.granted.set_result(None)
                given += 1
        return given

    def __repr__(self) -> str:
        return f"<Pacer engines={self.engines} cost_s={self._regular.cost_s:.6f} window={self._window.size}>"
