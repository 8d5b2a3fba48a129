"""The speeds of engines that are measured, and how far those count that nodes report.

A node measures its own engines. What a node below claims cannot be measured from here: how many engines it has does not
show in single requests. But a child that claims too much gets more requests than it can serve, so each of them takes
longer than its siblings' do. Where requests are read and written less than a quarter as fast as at the median of the
siblings, its speed counts as a half, a quarter or an eighth, until they are not.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import msgspec

from hierarchy.registry.child import Child
from hierarchy.registry.rates import Rates
from hierarchy.wire.status import OTHER_API, ModelStatus, NodeStatus

TRUSTED: Final = 4.0  # times as slow as its siblings a child's requests may be
LEAST: Final = 1 / 8  # of what it claims counts always: its engines may just be slower
ENOUGH: Final = 16  # samples of a child that is compared


def measured(child: Child, status: NodeStatus) -> NodeStatus:
    """What a probe read from an engine whose speed is measured, with the speeds and rates as they are known."""
    models = tuple([_measured(child, model) for model in status.models])
    known = [model.speed for model in models if model.prefill or model.decode]
    speed = max(known or [model.speed for model in models], default=0.0)  # of its fastest model
    return msgspec.structs.replace(status, models=models, speed=speed)


def _measured(child: Child, model: ModelStatus) -> ModelStatus:
    share = child.shares.get(model.key)
    rates = share.rates if share is not None else None
    speed = child.start_speed if rates is None else rates.publish()
    prefill = decode = 0.0
    if rates is not None:
        prefill, decode = (
            shown(rates.prefill.value, rates.prefill.samples),
            shown(rates.decode.value, rates.decode.samples),
        )
    return msgspec.structs.replace(model, speed=speed, prefill=prefill, decode=decode)


def shown(value: float, samples: int) -> float:
    """A rate to report: two digits, so that it does not change all the time; 0.0 if nothing has been measured."""
    return float(f"{value:.2g}") if samples else 0.0


def watch(child: Child) -> None:
    """Measure from now on what passes, of each model of an engine whose speed is measured."""
    for share in child.shares.values():
        if share.rates is None:
            name, api = share.key
            other = child.shares.get((name, OTHER_API[api]))  # the same model, for which the rates are the same
            known = other.rates if other is not None else None
            share.rates = known if known is not None else Rates(child.start_speed)


class Doubts:
    """How fast the requests of each node below are, where speeds are measured there."""

    def __init__(self) -> None:
        self._speeds: dict[Child, float] = {}
        self._sorted: list[float] = []

    def note(self, children: Iterable[Child]) -> None:
        """These are all children now."""
        self._speeds = {}
        for child in children:
            speed = _speed(child)
            if speed > 0.0:
                self._speeds[child] = speed
        self._sorted = sorted(self._speeds.values())

    def part(self, child: Child) -> float:
        """The part of a child's claim that counts: 1.0, or less if its requests are much slower than its siblings'."""
        speeds, own = self._sorted, self._speeds.get(child)
        if own is None or len(speeds) < 2:
            return 1.0
        place, count = bisect_left(speeds, own), len(speeds) - 1  # the middle of the list without its own
        low, high = (count - 1) // 2, count // 2
        median = (speeds[low + (low >= place)] + speeds[high + (high >= place)]) / 2
        ratio = TRUSTED * own / median
        return 1.0 if ratio >= 1.0 else max(LEAST, 2.0 ** math.floor(math.log2(ratio)))


def _speed(child: Child) -> float:
    """Of the requests to a node, of all its models; 0.0 while too few have been measured."""
    if not child.is_node or child.left_at is not None:
        return 0.0
    known = [share.rates for share in child.shares.values() if share.rates is not None]
    return max([rates.speed for rates in known if rates.samples >= ENOUGH], default=0.0)
