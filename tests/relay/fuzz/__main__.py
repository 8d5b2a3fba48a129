"""`python -m tests.relay.fuzz [SECONDS]`: fuzz until the time is over or something breaks, then print what did it."""

from __future__ import annotations

import asyncio
import sys
import time
from random import Random

from hierarchy.relay.downstream.head_cache import HeadCache
from tests.relay.fuzz import target


async def main(seconds: float) -> int:
    seed, seen, seeds = time.time_ns(), HeadCache(), target.corpus()
    rng, end, count = Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        count += 1
        is_request = rng.random() < 0.7
        data, cuts = target.mutate(rng, seeds if is_request else target.ANSWERS)
        try:
            await (target.requests(data, cuts, seen) if is_request else target.responses(data, cuts))
        except BaseException:
            name = "requests" if is_request else "responses"
            sys.stderr.write(f"seed {seed}, run {count}: {name} {data!r} split at {cuts}\n")
            raise
    sys.stderr.write(f"{count} runs, nothing found\n")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)))
