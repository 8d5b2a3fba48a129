"""Requests leave a child that may be dead only as fast as other children have room for them, the oldest first.

A suspect mostly wakes up, and then it serves what waits there. If everything moved at once, its siblings would get a
queue that they cannot serve any sooner, and it would stand idle. So each sweep moves what siblings can begin at once.
Where this node has no sibling, a few requests go back to the parent, if that said that others could take them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hierarchy.labels import Requirement
from hierarchy.registry import Registry, is_avoided
from hierarchy.registry.child import Child, Share
from hierarchy.relay.exchange import Exchange
from hierarchy.wire.status import ModelKey

UNKNOWN_SLOTS: Final = 4  # of a child that does not report them
UP_PER_SWEEP: Final = 4  # requests that go back to the parents at once


def room(share: Share, suspect_load: int) -> int:
    """How many requests of a suspect with this load a sibling can take now.

    Where slots are not known, half of the difference in load, so that both end up with the same.
    """
    load = share.value
    if share.slots:
        return max(0, share.slots - load)
    return max(0, UNKNOWN_SLOTS - load, (suspect_load - load) // 2)


def is_doubtful(child: Child) -> bool:
    """May the child be dead? Requests that found no other place when it was given up still wait there."""
    return child.suspect is not None or child.down is not None


def relieve(exchanges: Iterable[Exchange], registry: Registry, suspect: Child) -> int:
    """Move requests that wait for the first byte of a child that may be dead. Returns how many."""
    waiting: dict[tuple[ModelKey, Requirement | None], list[Exchange]] = {}
    for exchange in exchanges:
        share = exchange.waits_for(suspect)
        if share is not None:
            waiting.setdefault((share.key, exchange.request.require), []).append(exchange)
    return sum([_relieve_model(some, registry, suspect, *kind) for kind, some in waiting.items()])


def _relieve_model(
    waiting: list[Exchange], registry: Registry, suspect: Child, key: ModelKey, require: Requirement | None
) -> int:
    waiting.sort(key=_age)
    shares = registry.allowed(key, require)
    siblings = [] if is_avoided(shares) else [share for share in shares if share.child is not suspect]
    if siblings:
        load = suspect.load(key)
        leaving = waiting[: sum([room(share, load) for share in siblings])]
    else:
        leaving = [exchange for exchange in waiting if exchange.request.others][:UP_PER_SWEEP]
    reason = f"is suspect: {suspect.suspect}" if suspect.down is None else f"is down: {suspect.down}"
    return sum([exchange.leave(suspect, reason) for exchange in leaving])


def _age(exchange: Exchange) -> float:
    return exchange.request.started_at
