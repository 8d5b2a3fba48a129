"""Ten minutes at half load with random faults: nothing leaks, and every count adds up."""

from __future__ import annotations

import asyncio
import random
import time

from hierarchy.registry.ejection import MAX_S
from tests.chaos.conftest import Figure
from tests.chaos.load import Load
from tests.chaos.test_engines import at
from tests.chaos.tree import Process, Trees, wait_for

MB = 1 << 20


async def _faults(engines: list[Process], site: Process, rng: random.Random, until: float) -> int:
    """Until then: an engine dies, hangs, refuses or cuts, or the site dies; each is mended after a while."""
    count = 0
    while time.monotonic() < until:
        engine, count = rng.choice(engines), count + 1
        what = rng.choice(["kill", "hang", "503", "cut", "site"])
        if what in ("503", "cut"):
            fault = {"status": 503} if what == "503" else {"cut_after_tokens": 3}
            await asyncio.to_thread(engine.faults, fault)
            await asyncio.sleep(rng.uniform(0.5, 2.0))
            await asyncio.to_thread(engine.faults)
        elif what == "hang":
            engine.hang()
            await asyncio.sleep(rng.uniform(0.5, 5.0))
            engine.wake()
        else:
            victim = engine if what == "kill" else site
            await asyncio.to_thread(victim.kill)
            await asyncio.sleep(rng.uniform(0.5, 2.0))
            await asyncio.to_thread(victim.start)
        await asyncio.sleep(rng.uniform(0.5, 2.0))
    return count


def test_soak(bed: Trees, whole: bool, figure: Figure) -> None:
    """The root is watched: it stands above everything that fails, and is never restarted."""
    seconds = 600.0 if whole else 4.0
    root = bed.node("root")
    engines = bed.engines("e", 4, slots=8, tokens_per_s=100.0)
    sites = [bed.node(f"site{n}", parents=(root,), engines=engines[2 * n - 2 : 2 * n]) for n in (1, 2)]
    wait_for(root, 4)
    rss: list[int] = []

    async def run() -> tuple[list[Load], int]:
        until = time.monotonic() + seconds
        loads = [Load(at(root), clients=8, tokens=16, stream=stream) for stream in (False, True)]

        async def watch() -> None:
            await asyncio.sleep(seconds / 4)  # until the pools have their size
            while time.monotonic() < until - 1:
                rss.append(root.rss_bytes())
                await asyncio.sleep(seconds / 100)

        running = [load.run(until=lambda: time.monotonic() > until) for load in loads]
        faults = _faults(engines, sites[1], random.Random(7), until - (15.0 if whole else 3.0))
        others = asyncio.gather(watch(), *running)
        count = await faults
        await others
        return loads, count

    loads, faults = asyncio.run(run())
    wait_for(root, 4, MAX_S + 10.0)  # an engine that refused again and again is ejected for so long
    asked = sum(len(load.outcomes) for load in loads)
    failed = [outcome for load in loads for outcome in load.failed]
    early, late = (sum(part) / len(part) for part in (rss[: len(rss) // 4 or 1], rss[-(len(rss) // 4 or 1) :]))
    growth = late / early - 1
    ended = root.total("hierarchy_requests_total")
    retries, refused = root.total("hierarchy_retries_total"), root.total("hierarchy_refused_total")
    leases = sum(node.total("hierarchy_requests_in_flight") for node in (root, *sites))
    ok = root.total("hierarchy_requests_total", 'outcome="ok"')
    unsent = sum(not outcome.has_byte for outcome in failed)
    figure(
        f"{faults} faults, {asked} requests, {len(failed)} of them failed ({unsent} without a byte); "
        f"memory {early / MB:.1f} -> {late / MB:.1f} MB ({growth:+.1%}); {leases:g} leases left; "
        f"{ended:g} attempts = {asked} requests + {retries:g} retries - at most {refused:g} that found nobody",
        reach="±5 %, 0, adds up",
    )
    assert leases == 0
    assert asked + retries - refused <= ended <= asked + retries  # a refusal had an attempt or none
    assert ok <= asked
    if whole:
        assert abs(growth) <= 0.05
