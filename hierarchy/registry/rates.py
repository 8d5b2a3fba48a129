"""How fast an engine reads prompts and writes responses, measured on the requests that pass, and its speed from that.

    speed = sqrt(prefill / 8,000 * decode / 50)          tokens/s; of the two only what has been measured

Speed 1 is one usual engine, which reads 8,000 tokens a second and writes 50 for each stream: the unit of `prefix.cost`.
It is the same at all nodes, so that measured speeds can be summed, and declared ones stand beside them. The geometric
mean does not depend on how long prompts and responses are.

Samples are averaged by their logarithms, with ever smaller weights down to `LEAST_WEIGHT`, from the speed that is
declared on. A single sample counts at most as half or double of what is known, once some have come.
"""

from __future__ import annotations

import math
from typing import Final

from hierarchy.prefix.cost import PREFILL_BYTES_PER_S

BYTES_PER_TOKEN: Final = 4.0  # as everywhere, see `prefix.cost`
PREFILL: Final = PREFILL_BYTES_PER_S / BYTES_PER_TOKEN  # tokens/s of speed 1
DECODE: Final = 50.0  # tokens/s of one stream at speed 1
READ_BYTES: Final = 8192  # of prompts that make one sample: of fewer the time is mostly that of other things
LEAST_CHUNKS: Final = 16  # of a response that makes one
LEAST_WEIGHT: Final = 1 / 32  # of a new sample
FIRST: Final = 8  # samples that count as they are
SPREAD: Final = math.log(2.0)  # by which others differ from what is known, at most
CHANGE: Final = 0.1  # part by which a speed has to differ to be reported: each change makes nodes look again
LEAST: Final = 1e-3  # tokens/s; nothing is slower
MOST: Final = 1e6  # or faster


class Rate:
    """One rate in tokens/s, as an average of samples."""

    __slots__ = ("samples", "value")

    def __init__(self, value: float) -> None:
        self.value = value
        self.samples = 0

    def note(self, sample: float) -> None:
        """One more sample; one that cannot be real is left out."""
        if not LEAST <= sample <= MOST:  # nor NaN
            return
        self.samples += 1
        step = math.log(sample / self.value)
        if self.samples > FIRST:
            step = max(-SPREAD, min(SPREAD, step))
        self.value *= math.exp(step * max(LEAST_WEIGHT, 1 / (self.samples + 1)))


class Rates:
    """Of one model at one child.

    start: the speed to start from. one_reader: the child reads prompts one after the other, so between two first bytes
    it read the second one's prompt; a node has several engines below it.
    """

    __slots__ = ("_bytes", "_one_reader", "_read_at", "_seconds", "decode", "prefill", "published")

    def __init__(self, start: float, *, one_reader: bool = True) -> None:
        self.prefill = Rate(start * PREFILL)
        self.decode = Rate(start * DECODE)
        self.published = start  # the speed that was reported last
        self._one_reader = one_reader
        self._read_at = -math.inf  # when a first byte came last
        self._bytes = 0
        self._seconds = 0.0

    def note_first(self, unread: int, sent_at: float, now: float) -> None:
        """A stream's first byte has come. unread: bytes of its prompt that were not cached; 0 if that is not known."""
        began = max(sent_at, self._read_at) if self._one_reader else sent_at
        self._read_at = now
        if unread <= 0 or now <= began:
            self._bytes += unread  # it came together with the one before
            return
        self._bytes += unread
        self._seconds += now - began
        if self._bytes >= READ_BYTES:
            self.prefill.note(self._bytes / BYTES_PER_TOKEN / self._seconds)
            self._bytes, self._seconds = 0, 0.0

    def skip(self, now: float) -> None:
        """A stream's first byte has come that had to wait for something else, too: a slot, or the model."""
        self._read_at = now
        self._bytes, self._seconds = 0, 0.0

    def note_end(self, chunks: int, seconds: float) -> None:
        """A stream has ended. chunks: that came after the first one, in so many seconds."""
        if chunks >= LEAST_CHUNKS and seconds > 0.0:
            self.decode.note(chunks / seconds)

    @property
    def samples(self) -> int:
        """Of both kinds."""
        return self.prefill.samples + self.decode.samples

    @property
    def speed(self) -> float:
        """As measured so far; as declared if nothing has been measured."""
        prefill, decode = self.prefill.value / PREFILL, self.decode.value / DECODE
        if not self.prefill.samples:
            return decode
        return math.sqrt(prefill * decode) if self.decode.samples else prefill

    def publish(self) -> float:
        """The speed to report, which is the last one unless it has changed enough."""
        speed = self.speed
        if abs(speed - self.published) > CHANGE * self.published:
            self.published = speed
        return self.published

    def __repr__(self) -> str:
        return f"<Rates prefill={self.prefill.value:.3g} decode={self.decode.value:.3g} speed={self.speed:.3g}>"
