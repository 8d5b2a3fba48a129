"""Whether a child has a model loaded, and how long it takes to load it there.

An engine may serve models that it does not have in memory: it loads them when a request comes, and puts others away for
that. A model that is loaded is warm there, one that has to be loaded first is cold.
"""

from __future__ import annotations

import math
from typing import Final

from mypy_extensions import mypyc_attr

from hierarchy.registry.load import Load

CONFIRM_S: Final = 2.0  # after a load that this node saw end, in which a report that it is not loaded may be older
LEAST_LOAD_S: Final = 0.1
WEIGHT: Final = 0.5  # of the last load in the mean: they are rare, and files are in the page cache or not


@mypyc_attr(allow_interpreted_subclasses=True)
class Warmth(Load):
    """One model at one child."""

    __slots__ = ("load_began", "load_s", "load_time", "loaded_at", "told_load_s")

    def __init__(self) -> None:
        super().__init__()
        self.load_s = 0.0  # how long a request waits there until the model is loaded; 0: it is loaded
        self.told_load_s = 0.0  # by the last report that was believed
        self.load_time = 0.0  # how long loading it took there lately; 0: not known
        self.load_began = -1.0  # when a request was sent there that has to wait for it; -1: none was
        self.loaded_at = -math.inf  # when the last load ended, as far as this node saw it

    @property
    def is_loading(self) -> bool:
        """Is it being loaded, since requests wait there for it?"""
        return self.load_s > 0.0 and self.value > 0

    def note_load(self, load_s: float, usual_s: float, now: float) -> bool:
        """A report says that the model is loaded (0), or has to be. Returns whether it is, and was not, or the reverse.

        A report that was made before the end of a load that this node saw is not believed.

        load_s: as reported. usual_s: how long it takes if that was not measured here.
        """
        was_cold = self.load_s > 0.0
        if load_s > 0.0:
            if not was_cold and now < self.loaded_at + CONFIRM_S:
                return False
            self.load_s = self.load_time or usual_s
        self.told_load_s = load_s
        return was_cold is not (load_s > 0.0)

    def begin_load(self, now: float) -> None:
        """A request was sent there that has to wait until the model is loaded."""
        if self.load_began < 0.0 or self.open <= 1:  # else it waits with others
            self.load_began = now

    def loaded(self, now: float) -> float:
        """The model is loaded now. Returns how many seconds that took; -1 if no request of this node waited for it."""
        began, self.load_began = self.load_began, -1.0
        self.load_s = self.told_load_s = 0.0
        self.loaded_at = now
        return -1.0 if began < 0.0 else max(LEAST_LOAD_S, now - began)

    def measure(self, took_s: float) -> None:
        """Loading it took so long there."""
        mean = took_s if not self.load_time else (1 - WEIGHT) * self.load_time + WEIGHT * took_s
        self.load_time = round(mean, 1)
