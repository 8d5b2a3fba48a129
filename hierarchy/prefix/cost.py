"""What it costs to send a request to a child, in bytes of prompt that must be read first. Pure functions.

    cost = pending / speed - weight * (match - common) + 1200 * score + 32,000 * (round trip + time to load the model)

A byte that the child has in its cache need not be read. It also need not be kept a second time, which leaves room for
others; so what a match saves weighs more than a byte that waits, and the more, the longer all queues are. The least
cost is taken, never the longest match: where all prompts share their first block, the longest match within any bound
leaves half of the engines without work. For the same reason what many children have counts for none of them: it is
asked for often, so that the others should read it once, too.

Four bytes are about one token. Speeds are relative to one usual engine.
"""

from __future__ import annotations

from typing import Final

FULL: Final = 30.0  # the score of a child without a free slot: as many requests as an engine commonly runs at once
WAITING: Final = 10.0  # what each request that waits for a slot adds to it, at speed 1: it may wait for seconds
REQUEST_BYTES: Final = 1200  # what a request that runs or waits costs one that comes: its tokens are made beside it
LEAST_WEIGHT: Final = 2.0  # of a matched byte where some child has nothing to read
MOST_WEIGHT: Final = 6.0
COMMON_PART: Final = 3  # what one of so many children has is common,
LEAST_COMMON, MOST_COMMON = 2, 12  # but not what fewer have, and always what more have, however many children there are
PREFILL_BYTES_PER_S: Final = 32_000.0  # that one usual engine reads: 8,000 tokens
WEIGHT_BYTES: Final = 8000  # of waiting bytes at the idlest child that add 1 to the weight


def weight(least_wait: float) -> float:
    """What a matched byte saves. least_wait: the least `pending / speed` of all children, in bytes."""
    return min(MOST_WEIGHT, LEAST_WEIGHT + least_wait / WEIGHT_BYTES)


def enough_for_common(children: int) -> int:
    """What so many of these children have is common."""
    return max(LEAST_COMMON, min(-(-children // COMMON_PART), MOST_COMMON))


def common(matches: list[int], children: int) -> int:
    """The bytes at the beginning of a prompt that so many children have that they decide nothing.

    matches: of those children that have a part of it. children: all of them.
    """
    enough = enough_for_common(children)
    return sorted(matches)[-enough] if len(matches) >= enough else 0


def cost(wait: float, match: int, score: float, match_weight: float, distance: float = 0.0) -> float:
    """The cost of one child, in bytes.

    wait: its `pending / speed`. match: bytes of the prompt that it has, less those that are `common`. score: from
    `slot_score`, or load / speed. match_weight: from `weight`. distance: of the round trip, and of the time until the
    model is loaded there.
    """
    return wait - match_weight * match + REQUEST_BYTES * score + distance


def distance(round_trip_s: float) -> float:
    """What a round trip costs, in the bytes that one usual engine reads meanwhile."""
    return round_trip_s * PREFILL_BYTES_PER_S


def slot_score(load: float, slots: int, speed: float) -> float:
    """How busy a child is that runs `slots` requests at once: below `FULL` while one is free.

    It is on the scale of load / speed, which other children have. Were it only a part of 1, any match would be worth a
    queue, and engines that have read nothing yet would stay idle.
    """
    if load < slots:
        return FULL * load / slots
    return FULL + WAITING * (load - slots + 1) / speed
