"""What a simulation has measured. Times in seconds, counts of requests and tokens."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from hierarchy.simulation.request import Request


class Spread(NamedTuple):
    """Some times."""

    mean: float
    p50: float
    p99: float


class Moment(NamedTuple):
    """The requests that began in one part of the time."""

    at_s: float  #: when the part began
    requests: int
    ttft: Spread
    hit_rate: float


class Phase(NamedTuple):
    """Some of the requests: those that began between two events, such as a loss, or those for one model."""

    name: str
    requests: int
    ttft: Spread
    hit_rate: float


class Result(NamedTuple):
    """One simulation."""

    policy: str
    requests: int  #: that count: they began after the warm-up, and have ended
    failed: int  #: of all: nothing could serve them, or what did was lost
    ttft: Spread  #: from the client's request to the first token at the client
    wait: Spread  #: for a slot of the engine
    hit_rate: float  #: part of all prompt tokens that an engine had in its cache
    requests_per_s: float  #: that ended, of each engine, while the load lasted
    busy: float  #: part of the engines' slots that was in use, on average
    busy_least: float  #: the same of the idlest engine
    busy_most: float  #: and of the busiest
    idle_while_waiting: float  #: part of all slots that was idle though a request for the same model waited elsewhere
    is_steady: bool  #: the load had become what it was to be before it ended
    counted_from_s: float  #: the end of the warm-up
    simulated_s: float
    events: int
    models: tuple[Phase, ...]  #: for each model, the slowest first; () if there is only one
    phases: tuple[Phase, ...]
    moments: tuple[Moment, ...]


NONE = Spread(0.0, 0.0, 0.0)


def spread(times: Sequence[float]) -> Spread:
    """Mean, median and 99th percentile; zeros of nothing."""
    if not times:
        return NONE
    ordered = sorted(times)
    return Spread(math.fsum(ordered) / len(ordered), quantile(ordered, 0.5), quantile(ordered, 0.99))


def quantile(ordered: Sequence[float], part: float) -> float:
    """The least of these that `part` of all do not exceed."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


class Measures:
    """Notes each request when it ends: 56 bytes each."""

    def __init__(self) -> None:
        self.failed = 0
        self.ended_at = array("d")
        self._models: dict[str, int] = {}  # numbers of models
        self._model = array("L")
        self._began_at = array("d")
        self._ttft = array("d")
        self._waited = array("d")
        self._tokens = array("L")
        self._cached = array("L")

    def ended(self, request: Request, now: float) -> None:
        """A request has its whole response."""
        self.ended_at.append(now)
        self._model.append(self._models.setdefault(request.key[0], len(self._models)))
        self._began_at.append(request.began_at)
        self._ttft.append(request.first_at + request.delay_s - request.began_at)
        self._waited.append(request.waited_s)
        self._tokens.append(request.prompt.tokens)
        self._cached.append(request.cached)

    def since(self, begin: float, end: float = math.inf) -> list[int]:
        """The numbers of the requests that began in this time."""
        return [number for number, at in enumerate(self._began_at) if begin <= at < end]

    def ttft(self, numbers: Sequence[int]) -> Spread:
        """Of these requests."""
        return spread([self._ttft[number] for number in numbers])

    def wait(self, numbers: Sequence[int]) -> Spread:
        """Of these requests."""
        return spread([self._waited[number] for number in numbers])

    def hit_rate(self, numbers: Sequence[int]) -> float:
        """Of these requests."""
        return sum(self._cached[number] for number in numbers) / max(1, sum(self._tokens[number] for number in numbers))

    def models(self, numbers: Sequence[int]) -> tuple[Phase, ...]:
        """These requests by model, the slowest model first; () if all are for one."""
        inside: dict[str, list[int]] = {model: [] for model in self._models}
        names = list(self._models)
        for number in numbers:
            inside[names[self._model[number]]].append(number)
        found = [Phase(name, len(some), self.ttft(some), self.hit_rate(some)) for name, some in inside.items() if some]
        return tuple(sorted(found, key=lambda one: -one.ttft.p99)) if len(found) > 1 else ()

    def phases(self, begin: float, end: float, marks: Sequence[tuple[str, float]]) -> tuple[Phase, ...]:
        """Before the first mark, and after each of them. marks: what happened, and when."""
        cuts = [("before", begin)]
        for (name, at_s), (_, next_s) in pairwise([*sorted(marks, key=lambda mark: mark[1]), ("", end)]):
            for after, length_s in zip(("", " +10 s", " +30 s"), (0.0, 10.0, 30.0), strict=True):
                if begin <= at_s + length_s < next_s:
                    cuts.append((f"{name}{after}", at_s + length_s))
        return tuple(
            Phase(name, len(numbers), self.ttft(numbers), self.hit_rate(numbers))
            for (name, start), (_, stop) in pairwise([*cuts, ("", end)])
            if (numbers := self.since(start, stop))
        )

    def moments(self, end: float, parts: int) -> tuple[Moment, ...]:
        """The whole time, in so many parts."""
        width = end / parts if end > 0 else 1.0
        inside: list[list[int]] = [[] for _ in range(parts)]
        for number, at in enumerate(self._began_at):
            inside[min(int(at / width), parts - 1)].append(number)
        return tuple(
            Moment(part * width, len(numbers), self.ttft(numbers), self.hit_rate(numbers))
            for part, numbers in enumerate(inside)
            if numbers
        )

    def __repr__(self) -> str:
        return f"<Measures of {len(self._ttft)} requests>"
