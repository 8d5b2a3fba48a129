"""Signs of life of one engine, and what their absence means. Pure; the caller passes the time.

A probe's answer is a sign of life, and so is every byte of a response that this node forwards: an engine that streams
lives, however late its probes are. Without any sign, an engine is suspect soon and dead much later, since a busy
engine can be silent for long, the longer the more requests it has.

All times are seconds of a clock that excludes this process's own pauses.
"""

from __future__ import annotations

from typing import Final

LATE_S: Final = 2.5  # without a sign of life, though a probe waits: the engine is suspect
DEATH_S: Final = 10.0  # the same: it is dead, if it has no requests
DEATH_PER_REQUEST_S: Final = 0.25  # added to that for each request that it has
MAX_DEATH_S: Final = 60.0  # the most
UNANSWERED: Final = 3  # probes without an answer that a death takes, besides
BAD_ANSWERS: Final = 2  # in a row, after which an engine is down


def death_s(requests: int) -> float:
    """After how long without a sign of life an engine with so many requests is dead, in seconds."""
    return min(DEATH_S + DEATH_PER_REQUEST_S * requests, MAX_DEATH_S)


class Vitals:
    """What is known of one engine's life. signs: a count that grows with each sign but the answers of probes."""

    def __init__(self, now: float, signs: int = 0) -> None:
        self.alive_at = now  # the last sign of life
        self.bad_answers = 0  # in a row
        self._signs = signs
        self._given_up = 0  # probes that were given up without an answer since then

    def see(self, now: float, signs: int) -> bool:
        """Compare the count of signs with the last one. Returns whether there was a sign."""
        if signs == self._signs:
            return False
        self._signs = signs
        self._live(now)
        return True

    def answered(self, now: float, signs: int) -> None:
        """A probe has its answer, a good one."""
        self._signs = signs
        self.bad_answers = 0
        self._live(now)

    def answered_badly(self) -> bool:
        """A probe has an answer that says that the engine cannot be used. Returns whether that makes it down."""
        self.bad_answers += 1
        return self.bad_answers >= BAD_ANSWERS

    def give_up(self) -> None:
        """A probe is not waited for any longer."""
        self._given_up += 1

    def is_late(self, now: float, began_at: float) -> bool:
        """Is a probe that began then late, and no other sign came?"""
        return now - max(began_at, self.alive_at) >= LATE_S

    def is_dead(self, now: float, waiting: int, requests: int) -> bool:
        """Is the engine dead? waiting: late probes. requests: that it has."""
        return self._given_up + waiting >= UNANSWERED and now - self.alive_at >= death_s(requests)

    def _live(self, now: float) -> None:
        self.alive_at = now
        self._given_up = 0

    def __repr__(self) -> str:
        return f"<Vitals alive_at={self.alive_at:.1f} bad_answers={self.bad_answers}>"
