"""Ten minutes at half load with random faults, and a day of comings and goings in ten minutes: nothing leaks."""

from __future__ import annotations

import asyncio
import random
import statistics
import time

import pytest

from hierarchy.registry.ejection import MAX_S
from tests.chaos.churn import Churn, Sample
from tests.chaos.conftest import Record
from tests.chaos.load import Load
from tests.chaos.processes import Process, Processes, wait_for
from tests.chaos.test_engines import addresses

pytestmark = pytest.mark.slow

MB = 1 << 20


async def _cause_faults(engines: list[Process], site: Process, rng: random.Random, until: float) -> int:
    """Until `until`, cause random faults of an engine or the site, and end each after a while. Returns their number."""
    count = 0
    while time.monotonic() < until:
        engine, count = rng.choice(engines), count + 1
        fault = rng.choice(["kill", "suspend", "503", "cut", "site"])
        if fault in ("503", "cut"):
            simulated = {"status": 503} if fault == "503" else {"cut_after_tokens": 3}
            await asyncio.to_thread(engine.faults, simulated)
            await asyncio.sleep(rng.uniform(0.5, 2.0))
            await asyncio.to_thread(engine.faults)
        elif fault == "suspend":
            engine.suspend()
            await asyncio.sleep(rng.uniform(0.5, 5.0))
            engine.resume()
        else:
            victim = engine if fault == "kill" else site
            await asyncio.to_thread(victim.kill)
            await asyncio.sleep(rng.uniform(0.5, 2.0))
            await asyncio.to_thread(victim.start)
        await asyncio.sleep(rng.uniform(0.5, 2.0))
    return count


def test_soak(processes: Processes, full: bool, record: Record) -> None:
    """The root is observed: it is above everything that fails, and is never restarted."""
    seconds = 600.0 if full else 4.0
    root = processes.node("root")
    engines = processes.engines("e", 4, slots=8, tokens_per_s=100.0)
    sites = [processes.node(f"site{n}", parents=(root,), engines=engines[2 * n - 2 : 2 * n]) for n in (1, 2)]
    wait_for(root, 4)
    rss: list[int] = []

    async def run() -> tuple[list[Load], int]:
        until = time.monotonic() + seconds
        loads = [Load(addresses(root), clients=8, tokens=16, stream=stream) for stream in (False, True)]

        async def sample_memory() -> None:
            await asyncio.sleep(seconds / 4)  # until the connection pools have grown
            while time.monotonic() < until - 1:
                rss.append(root.rss_bytes())
                await asyncio.sleep(seconds / 100)

        running = [load.run(until=lambda: time.monotonic() > until) for load in loads]
        faults = _cause_faults(engines, sites[1], random.Random(7), until - (15.0 if full else 3.0))
        others = asyncio.gather(sample_memory(), *running)
        count = await faults
        await others
        return loads, count

    loads, faults = asyncio.run(run())
    wait_for(root, 4, MAX_S + 10.0)  # the longest ejection
    sent = sum(len(load.outcomes) for load in loads)
    failed = [outcome for load in loads for outcome in load.failed]
    early, late = (sum(part) / len(part) for part in (rss[: len(rss) // 4 or 1], rss[-(len(rss) // 4 or 1) :]))
    growth = late / early - 1
    # Those that left a child at no cost, since another one could take the request, are no retries.
    attempts = root.total("hierarchy_requests_total") - root.total("hierarchy_requests_total", 'outcome="moved"')
    retries, refused = root.total("hierarchy_retries_total"), root.total("hierarchy_refused_total")
    leases = sum(node.total("hierarchy_requests_in_flight") for node in (root, *sites))
    ok = root.total("hierarchy_requests_total", 'outcome="ok"')
    unsent = sum(not outcome.has_byte for outcome in failed)
    record(
        f"{faults} faults, {sent} requests, {len(failed)} of them failed ({unsent} without a byte); "
        f"memory {early / MB:.1f} -> {late / MB:.1f} MB ({growth:+.1%}); {leases:g} leases left; "
        f"{attempts:g} attempts = {sent} requests + {retries:g} retries - at most {refused:g} without a child",
        target="±5 %, 0, adds up",
    )
    assert leases == 0
    assert sent + retries - refused <= attempts <= sent + retries  # a refused request had an attempt or none
    assert ok <= sent
    if full:
        assert abs(growth) <= 0.05


def _medians(samples: list[Sample], quarter: int) -> tuple[float, float, float]:
    """Memory in MB, series and descriptors, in the quarter that ends there.

    Not the means: where other work on the machine delays the node, more is there for a while.
    """
    size = len(samples) // 4
    part = samples[(quarter - 1) * size : quarter * size]
    rows = [(sample.rss / MB, sample.series, sample.descriptors) for sample in part]
    memory, series, descriptors = (statistics.median(column) for column in zip(*rows, strict=True))
    return memory, series, descriptors


def test_a_day_of_comings_and_goings_leaves_nothing(processes: Processes, full: bool, record: Record) -> None:
    """24 hours in ten minutes: `remember_s` and all intervals are as much shorter. The first quarter warms up."""
    churn = Churn(processes, period_s=0.4)
    samples = asyncio.run(churn.run(600.0 if full else 24.0))
    quarters = [_medians(samples, quarter) for quarter in (1, 2, 3, 4)]
    growth = [late / early - 1 for early, late in zip(quarters[1], quarters[3], strict=True)]
    shown = "; ".join(
        f"{what} {' '.join(f'{quarter[number]:.1f}' for quarter in quarters)} ({growth[number]:+.1%})"
        for number, what in enumerate(("memory in MB", "series", "descriptors"))
    )
    record(
        f"{churn.runs} engines, keys, workers, {2 * churn.runs} nodes and {churn.requests} clients came and went "
        f"(responses {dict(churn.statuses)}): by quarter {shown}",
        target="±3 %",
    )
    assert churn.statuses["200"] > churn.runs / 2
    if full:
        assert max(map(abs, growth[:2])) <= 0.03
        assert abs(quarters[3][2] - quarters[1][2]) <= 1  # of some thirty, so that one is more than 3 %
    else:
        assert max(growth[1:]) < 0.5
