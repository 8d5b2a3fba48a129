"""How long a request would wait at a child before its engine begins to read the prompt, in seconds.

    wait = max(pending / (speed * 32,000 bytes/s), for an end of those that run there)

Requests wait where there are more than places. How often one ends is measured: where there are `load` requests, each
for T seconds, load / T end each second. Where none has ended for longer than that, the next end takes longer, too: the
requests are others than before. As long as nothing is measured, a request keeps its place for ten seconds. Where slots
are not known, an engine of speed 1 has as many places as engines commonly have.
"""

from __future__ import annotations

import math
from typing import Final

from hierarchy.prefix.cost import FULL, PREFILL_BYTES_PER_S
from hierarchy.registry.child import NODE, Share

REQUEST_S: Final = 10.0  # that a request keeps its place in a batch, as a guess: 500 tokens at 50 a second
USUAL_PREFILL: Final = 8000.0  # tokens/s that an engine of speed 1 reads
MEMORY_S: Final = 30.0  # of what is measured: a sample counts for a third after this time
LEAST_RATE: Final = 1e-3  # ends a second; of fewer nothing is concluded


def expected_wait_s(
    load: float, slots: int, speed: float, pending: float, residence_s: float = 0.0, quiet_s: float = 0.0
) -> float:
    """How long a request waits at a child before its prompt is read.

    load: requests there. slots: that run at once; 0 if that is not known. speed: of the child. pending: bytes of
    prompts that it has to read before. residence_s, quiet_s: how long requests are there, and for how long none has
    ended, see `Residence`; 0 if not known.
    """
    places = slots or FULL * speed
    waiting = load + 1 - places
    wait_s = 0.0
    if waiting > 0:
        wait_s = waiting * max(residence_s / load, quiet_s) if residence_s and load else waiting / places * REQUEST_S
    return max(wait_s, pending / (speed * PREFILL_BYTES_PER_S))


def wait_at(share: Share, residence_s: float = 0.0, quiet_s: float = 0.0) -> float:
    """The same, of the model of a share, there and back: with the round trip, and the time to load a model."""
    load, child = share.score * share.speed, share.child
    # The speed of a node is limited where it claims too much, its rates are not.
    pending = share.pending * share.speed * USUAL_PREFILL / share.prefill if _is_measured(share) else share.pending
    wait_s = expected_wait_s(load, share.slots, share.speed, pending, residence_s, quiet_s)
    return wait_s + child.round_trip.counted + share.load_s


def _is_measured(share: Share) -> bool:
    return share.prefill > 0.0 and share.child.kind != NODE


class Residence:
    """How long requests are at one child on average, by Little's law: those that are there over those that end.

    Nothing is measured of a single request, so requests cost nothing.

    Attributes:
        seconds: 0 as long as none ended.
        quiet_s: for how long none has ended although some were there.
    """

    __slots__ = ("_at", "_ended", "_open", "_rate", "quiet_s", "seconds")

    def __init__(self, now: float, ended: int) -> None:
        self.seconds = self.quiet_s = 0.0
        self._at = now
        self._ended = ended
        self._open = 0.0  # means of what was noted lately
        self._rate = 0.0

    def note(self, now: float, open_: int, ended: int) -> None:
        """Look again. open_: requests that are there for this node. ended: how many have ever ended."""
        passed = now - self._at
        if passed <= 0:
            return
        part = 1 - math.exp(-passed / MEMORY_S)
        self.quiet_s = self.quiet_s + passed if open_ and ended == self._ended else 0.0
        self._open += part * (open_ - self._open)
        self._rate += part * ((ended - self._ended) / passed - self._rate)
        self._at, self._ended = now, ended
        if self._rate > LEAST_RATE:
            self.seconds = self._open / self._rate

    def __repr__(self) -> str:
        return f"<Residence {self.seconds:.3f} s>"
