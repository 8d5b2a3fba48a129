"""Engines that are slow, busy or frozen for a moment, and alive: nobody may take them for dead. Every core is busy."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections import Counter

import pytest

from hierarchy.engines.model_store import DEFAULT, KNOWN
from hierarchy.runtime.folders import cache_folder
from tests.chaos.conftest import Record
from tests.chaos.hogs import Hogs
from tests.chaos.load import Load, Outcome, send
from tests.chaos.processes import Process, Processes, wait_for
from tests.chaos.test_engines import addresses
from tests.chaos.watch import Watch, deaths_logged

pytestmark = pytest.mark.slow

MODEL = "smollm2-135m"
SLOTS = 4


def llama_cpp_obstacle() -> str | None:
    """Why llama.cpp cannot run here without a download; None if it can."""
    if importlib.util.find_spec("xllamacpp") is None:
        return "xllamacpp is not installed"
    file = cache_folder() / "models" / KNOWN[DEFAULT].filename
    return None if file.exists() else f"{DEFAULT} is not fetched"


def _four_engines(processes: Processes) -> tuple[list[Process], str]:
    """Two real engines and two simulated ones of about their speed; and their description."""
    obstacle = llama_cpp_obstacle()
    simulated = [
        processes.engine(f"simulated{number}", slots=SLOTS, tokens_per_s=10.0, models=(MODEL,))
        for number in range(2 if obstacle is None else 4)
    ]
    if obstacle is not None:
        return simulated, f"4 simulated engines ({obstacle})"
    real = [processes.local_engine(f"llama{number}", MODEL, slots=SLOTS) for number in range(2)]
    return [real[0], simulated[0], real[1], simulated[1]], "2 llama.cpp, 2 simulated"


def test_no_engine_dies_at_90_percent_of_its_slots(
    processes: Processes, hogs: Hogs, full: bool, record: Record
) -> None:
    seconds = 600.0 if full else 20.0
    engines, kinds = _four_engines(processes)
    root = processes.node("root")
    sites = [processes.node(f"site{n}", parents=(root,), engines=engines[2 * n : 2 * n + 2]) for n in range(2)]
    wait_for(root, 4, 60.0)
    clients = round(0.9 * SLOTS * len(engines)) // 2
    loads = [Load(addresses(root), clients=clients, tokens=16, stream=stream, model=MODEL) for stream in (False, True)]

    async def run() -> list[str]:
        end = time.monotonic() + seconds
        async with Watch(sites[0]) as one, Watch(sites[1]) as other, Watch(root) as above:
            await asyncio.gather(*(load.run(until=lambda: time.monotonic() > end) for load in loads))
        return [f"{change.child} {change.state}" for watch in (one, other, above) for change in watch.deaths]

    seen = asyncio.run(run())
    logged = deaths_logged(root, *sites)
    outcomes = [outcome for load in loads for outcome in load.outcomes]
    failed = [outcome for load in loads for outcome in load.failed]
    errors = Counter(outcome.status for outcome in outcomes if outcome.status >= 500)
    record(
        f"{kinds}, {seconds:g} s: {len(seen)} false deaths seen and {len(logged)} logged; {errors.total()} responses "
        f"5xx and {len(failed) - errors.total()} other failures of {len(outcomes)} requests",
        target="0; 0",
    )
    assert (seen, logged) == ([], [])
    assert failed == [], "; ".join(map(str, failed[:5]))


def test_the_only_engine_of_a_model_is_frozen(processes: Processes, hogs: Hogs, full: bool, record: Record) -> None:
    """Each node is asked 20 times while the engine is frozen. Nobody else has the model, so they wait."""
    engine = processes.engine("e")
    root = processes.node("root")
    site = processes.node("site", parents=(root,))
    rack = processes.node("rack", parents=(site,), engines=[engine])
    wait_for(root, 1)
    frozen_s, asked = 3.5, 20

    async def ask(node: Process, number: int) -> Outcome:
        await asyncio.sleep(number * frozen_s / asked)
        return await send(addresses(node), stream=number % 2 == 0)

    async def freeze() -> dict[str, list[Outcome]]:
        engine.suspend()
        asking = {
            node.name: asyncio.gather(*(ask(node, number) for number in range(asked))) for node in (rack, site, root)
        }
        await asyncio.sleep(frozen_s)
        engine.resume()
        return {name: await outcomes for name, outcomes in asking.items()}

    failed = []
    for _ in range(5 if full else 1):
        outcomes = asyncio.run(freeze())
        answered = {name: sum(outcome.ok for outcome in of) for name, of in outcomes.items()}
        failed += [f"{name}: {outcome}" for name, of in outcomes.items() for outcome in of if not outcome.ok]
        longest = max(outcome.wait for of in outcomes.values() for outcome in of)
        record(
            f"frozen for {frozen_s:g} s: {sum(answered.values())} of {3 * asked} answered "
            f"({', '.join(f'{name} {count}' for name, count in answered.items())}); "
            f"the longest wait was {longest:.1f} s",
            target="60 of 60",
        )
        wait_for(root, 1)
    assert failed == [], "; ".join(failed[:5])


def test_an_engine_stands_still_while_it_works(processes: Processes, hogs: Hogs, full: bool, record: Record) -> None:
    """As vLLM's server does while it tokenizes 30 MB: no probe is answered and no stream flows, but it lives."""
    engine = processes.engine("e", tokens=64, tokens_per_s=20.0)
    root = processes.node("root")
    site = processes.node("site", parents=(root,))
    rack = processes.node("rack", parents=(site,), engines=[engine])
    wait_for(root, 1)
    times = 10 if full else 2
    engine.faults({"freeze_s": 4.4, "every": 12, "count": times})
    loads = [
        Load(addresses(node), clients=2, tokens=32, stream=stream)
        for node in (root, site, rack)
        for stream in (False, True)
    ]

    def is_over() -> bool:
        return sum(len(load.outcomes) for load in loads) >= 12 * (times + 1)

    async def run() -> None:
        await asyncio.gather(*(load.run(until=is_over) for load in loads))

    asyncio.run(run())
    failed = [str(outcome) for load in loads for outcome in load.failed]
    logged = deaths_logged(root, site, rack)
    record(
        f"stood still for 4.4 s, {times} times: {len(logged)} deaths; {len(failed)} of "
        f"{sum(len(load.outcomes) for load in loads)} requests failed",
        target="0; 0",
    )
    assert logged == []
    assert failed == [], "; ".join(failed[:5])


def test_a_node_that_was_frozen_marks_no_engine_down(
    processes: Processes, hogs: Hogs, full: bool, record: Record
) -> None:
    """The pause of the judge does not count against the judged. A probe is often on its way: the engines are busy."""
    engines = processes.engines("e", 4)
    for engine in engines:
        engine.faults({"on": "probe", "delay_first_byte_s": 0.3})
    node = processes.node("node", engines=engines)
    wait_for(node, 4)
    times, frozen_s = 20 if full else 5, 3.0

    load = Load(addresses(node), clients=4, pause_s=0.05)

    async def run() -> list[str]:
        done = False
        running = asyncio.ensure_future(load.run(until=lambda: done))
        async with Watch(node) as watch:
            for _ in range(times):
                await asyncio.sleep(0.8)
                node.suspend()
                await asyncio.sleep(frozen_s)
                node.resume()
            await asyncio.sleep(1.5)
        done = True
        await running
        return [f"{change.child} {change.state}" for change in watch.deaths]

    seen = asyncio.run(run())
    logged = deaths_logged(node)
    record(
        f"frozen for {frozen_s:g} s, {times} times: {len(logged)} of {times * len(engines)} engines marked down "
        f"(seen: {len(seen)}); {len(load.failed)} of {len(load.outcomes)} requests failed",
        target="0",
    )
    assert (seen, logged) == ([], [])
    assert load.failed == [], load.causes()
