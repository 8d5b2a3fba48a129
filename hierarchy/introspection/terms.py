"""What a choice by prefix is made of, for each candidate: the one place to add a term.

A term is a field of `Terms`, which `GET /route` shows; `read` takes it from the tree, `cost_of` weighs it as
`balancing.prefix_choice` does, and `TERMS` in `cli.explain` prints it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hierarchy.prefix.cost import common, cost, distance, slot_score, weight
from hierarchy.registry.round_trip import counted_s
from hierarchy.wire.tree_entry import ModelEntry, TreeEntry


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms of one candidate. None: not known."""

    #: bytes of the prompt that it has in its cache, as far as the node above it knows; None: no prompt was named
    match: int | None = None
    #: bytes of prompts that it was sent and has to read
    pending: int = 0
    #: requests that it runs at once; 0: not known
    slots: int = 0
    #: `load` against `slots`: compared instead of the score where the slots of all candidates are known, else 0
    busy: float = 0.0
    #: seconds to it and back
    round_trip_s: float | None = None
    #: seconds until the model is loaded there; 0: it is
    load_s: float = 0.0
    #: of the tiers that its node prefers, the first is 1
    tier: int | None = None
    #: seconds that a request is expected to wait there; None: its node prefers no child
    wait_s: float | None = None
    #: what is compared, in bytes of prompt; 0 for another policy than `prefix`
    cost: float = 0.0


def read(child: TreeEntry, row: ModelEntry, match: int | None) -> Terms:
    """The terms of a child for one of its models, but for the cost. match: see `Terms`."""
    wait_s = None if child.tier is None else row.wait_s
    if row.load_s and match:
        match = 0  # with the model, its cache went, too
    return Terms(match=match, pending=row.pending, slots=row.slots, round_trip_s=child.round_trip_s, tier=child.tier,
                 wait_s=wait_s, load_s=row.load_s)  # fmt: skip


def busy_of(terms: Terms, load: float, speed: float) -> float:
    """How busy it is, given that the slots of all candidates are known."""
    return slot_score(load, terms.slots, speed) if speed else 0.0


def cost_of(terms: Terms, load: float, speed: float, match_weight: float, shared: int = 0) -> float:
    """The cost in bytes.

    load: requests. match_weight: of a matched byte, from `weight_among`. shared: what many have, from `common_among`.
    """
    if not speed:
        return 0.0
    score = terms.busy or load / speed
    away = distance(counted_s(terms.round_trip_s or 0.0) + terms.load_s)
    return cost(terms.pending / speed, max(0, (terms.match or 0) - shared), score, match_weight, away)


def weight_among(waits: Sequence[float]) -> float:
    """What a matched byte saves. waits: `pending / speed` of all candidates."""
    return weight(min(waits, default=0.0))


def common_among(matches: Sequence[int | None]) -> int:
    """What many of the candidates have of a prompt, so that it decides nothing. matches: of all candidates."""
    return common([match for match in matches if match], len(matches))
