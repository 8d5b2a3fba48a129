"""Engines that die, hang, flap and refuse."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from hierarchy.engines.simulated.engine import answer_text
from tests.chaos.conftest import Figure
from tests.chaos.load import Load, ask
from tests.chaos.tree import Process, Trees, wait_for
from tests.support import eventually_async


def at(*nodes: Process) -> list[tuple[str, int]]:
    return [("127.0.0.1", node.port) for node in nodes]


def _has_ended(load: Load, count: int) -> bool:
    """True once that many of the load's requests have ended."""
    return len(load.outcomes) >= count


async def _killing(load: Load, engines: list[Process], *, count: int, kills: int) -> None:
    """Run the load; meanwhile engine after engine is killed, and started again."""
    running = asyncio.ensure_future(load.run(count=count))
    for number in range(kills):
        await eventually_async(partial(_has_ended, load, (number + 1) * count // (kills + 1)), "the load", 300.0)
        victim = engines[number % len(engines)]
        await asyncio.to_thread(victim.kill)
        if number + 1 < kills:
            await asyncio.sleep(1.0)
            await asyncio.to_thread(victim.start)
    await running


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_kill_9_one_of_eight_engines(bed: Trees, whole: bool, figure: Figure, stream: bool) -> None:
    if stream and not whole:
        pytest.skip("the streamed half runs with --whole")
    engines = bed.engines("e", 8 if whole else 4)
    root = bed.node("root", engines=engines)
    wait_for(root, len(engines))
    load = Load(at(root), clients=64, tokens=16, stream=stream)
    count = 10_000 if whole else 500
    asyncio.run(_killing(load, engines, count=count, kills=8 if whole else 1))
    unsent = [outcome for outcome in load.failed if not outcome.has_byte]
    figure(
        f"{len(unsent)} of {len(load.outcomes)} requests without a byte failed; "
        f"{root.total('hierarchy_retries_total'):g} retries; {len(load.failed) - len(unsent)} streams were cut",
        reach="0 of 10,000",
    )
    assert unsent == [], load.causes()
    assert root.total("hierarchy_retries_total") > 0
    assert root.total("hierarchy_requests_in_flight") == 0


def test_kill_9_in_mid_stream(bed: Trees, whole: bool, figure: Figure) -> None:
    """Two levels: the site sees the engine die, and the root only passes on what it says."""
    engines = bed.engines("e", 4 if whole else 2, tokens_per_s=20.0, tokens=200)
    root = bed.node("root")
    bed.node("site", parents=(root,), engines=engines)
    wait_for(root, len(engines))
    clients = 200 if whole else 40

    async def run() -> tuple[list[float], Load]:
        load = Load(at(root), clients=clients, tokens=200, stream=True)
        running = asyncio.ensure_future(load.run(count=clients))
        await asyncio.sleep(2.0)
        for victim in engines:
            await asyncio.to_thread(victim.kill)
        killed = time.monotonic()
        await running
        return [outcome.ended - killed for outcome in load.outcomes], load

    ends, load = asyncio.run(run())
    cut = [outcome for outcome in load.outcomes if outcome.has_byte]
    told = [outcome for outcome in cut if outcome.told]
    expected = answer_text(200).split(" ")
    twice = [outcome for outcome in cut if "".join(outcome.words).split(" ") != expected[: len(outcome.words)]]
    figure(
        f"{len(told)} of {len(cut)} cut streams ended in an SSE error, the last {max(ends):.2f} s after the kill; "
        f"{len(twice)} with a token twice or missing",
        reach="all, within 1 s, 0",
    )
    assert len(cut) == len(told) == clients
    assert twice == []
    assert max(ends) < 1.0


def test_sigstop_one_of_four_engines(bed: Trees, whole: bool, figure: Figure) -> None:
    engines = bed.engines("e", 4)
    root = bed.node("root", engines=engines)
    wait_for(root, 4)

    async def run(load: Load) -> None:
        end = time.monotonic() + (30.0 if whole else 5.0)
        running = asyncio.ensure_future(load.run(until=lambda: time.monotonic() > end))
        await asyncio.sleep(0.5)
        engines[0].hang()
        await running

    load = Load(at(root), clients=64 if whole else 16, tokens=8, pause_s=0.0 if whole else 0.02)
    asyncio.run(run(load))
    longest = max(outcome.wait for outcome in load.outcomes)
    figure(
        f"{len(load.failed)} of {len(load.outcomes)} requests failed; the longest waited {longest:.2f} s",
        reach="0; 5 s",
    )
    assert load.failed == [], load.causes()
    assert longest < 5.0
    engines[0].wake()
    wait_for(root, 4)


def test_an_engine_that_flaps_every_2_s(bed: Trees, whole: bool, figure: Figure) -> None:
    engines = bed.engines("e", 4)
    root = bed.node("root", engines=engines)
    wait_for(root, 4)

    async def run(load: Load) -> None:
        flaps = 8 if whole else 1
        done = False
        running = asyncio.ensure_future(load.run(until=lambda: done))
        for _ in range(flaps):
            await asyncio.sleep(1.0)
            await asyncio.to_thread(engines[0].kill)
            await asyncio.sleep(2.0)
            engines[0].spawn()
            await asyncio.sleep(1.0)
        done = True
        await running

    load = Load(at(root), clients=32 if whole else 16, tokens=8, stream=True, pause_s=0.0 if whole else 0.02)
    asyncio.run(run(load))
    share = len(load.failed) / len(load.outcomes)
    unsent = [outcome for outcome in load.failed if not outcome.has_byte]
    figure(
        f"{share:.2%} of {len(load.outcomes)} requests ended in an error, {len(unsent)} of them before a byte",
        reach="1 %",
    )
    assert share <= 0.01, load.causes()
    assert unsent == []


def test_all_engines_answer_503(bed: Trees, whole: bool, figure: Figure) -> None:
    """Four levels of nodes; retries must not multiply by level."""
    engines = bed.engines("e", 4)
    root = bed.node("root")
    region = bed.node("region", parents=(root,))
    sites = [bed.node(f"site{number}", parents=(region,)) for number in (1, 2)]
    for number, site in enumerate(sites):
        bed.node(f"rack{number + 1}", parents=(site,), engines=engines[2 * number : 2 * number + 2])
    wait_for(root, 4)
    for engine in engines:
        engine.faults({"status": 503})

    def attempts() -> int:
        return sum(engine.get("/simulated")["faulted"] for engine in engines)

    if not whole:  # the first hundred of a short run would be a large part of it
        asyncio.run(Load(at(root), clients=100).run(count=200))
    before = attempts()
    load = Load(at(root), clients=100)
    asyncio.run(load.run(count=10_000 if whole else 800))
    average = (attempts() - before) / len(load.outcomes)
    most = 0
    for _ in range(50 if whole else 10):
        before = attempts()
        assert asyncio.run(ask(at(root))).status == 503
        most = max(most, attempts() - before)
    figure(f"{average:.3f} attempts at engines a request on average, at most {most}", reach="1.2, 3")
    assert {outcome.status for outcome in load.outcomes} == {503}
    assert average <= 1.2
    assert most <= 3
