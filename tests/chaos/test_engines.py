"""Engines that are killed, suspended, flap, or respond with 503."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from hierarchy.engines.simulated.engine import answer_text
from tests.chaos.conftest import Record
from tests.chaos.load import Load, send
from tests.chaos.processes import Process, Processes, wait_for
from tests.support import eventually_async

pytestmark = pytest.mark.slow


def addresses(*nodes: Process) -> list[tuple[str, int]]:
    """The addresses for a load."""
    return [("127.0.0.1", node.port) for node in nodes]


def _has_ended(load: Load, count: int) -> bool:
    """Whether that many of the load's requests have ended."""
    return len(load.outcomes) >= count


async def _run_with_kills(load: Load, engines: list[Process], *, count: int, kills: int) -> None:
    """Run the load, and meanwhile kill one engine after another and start it again."""
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
def test_kill_9_one_of_eight_engines(processes: Processes, full: bool, record: Record, stream: bool) -> None:
    if stream and not full:
        pytest.skip("streams only with --full")
    engines = processes.engines("e", 8 if full else 4)
    root = processes.node("root", engines=engines)
    wait_for(root, len(engines))
    load = Load(addresses(root), clients=64, tokens=16, stream=stream)
    count = 10_000 if full else 500
    asyncio.run(_run_with_kills(load, engines, count=count, kills=8 if full else 1))
    unsent = [outcome for outcome in load.failed if not outcome.has_byte]
    record(
        f"{len(unsent)} of {len(load.outcomes)} requests without a byte failed; "
        f"{root.total('hierarchy_retries_total'):g} retries; {len(load.failed) - len(unsent)} streams were cut",
        target="0 of 10,000",
    )
    assert unsent == [], load.causes()
    assert root.total("hierarchy_retries_total") > 0
    assert root.total("hierarchy_requests_in_flight") == 0


def test_kill_9_in_mid_stream(processes: Processes, full: bool, record: Record) -> None:
    """Two levels: the site sees that the engine died, and the root passes the site's error on."""
    engines = processes.engines("e", 4 if full else 2, tokens_per_s=20.0, tokens=200)
    root = processes.node("root")
    processes.node("site", parents=(root,), engines=engines)
    wait_for(root, len(engines))
    clients = 200 if full else 40

    async def run() -> tuple[list[float], Load]:
        load = Load(addresses(root), clients=clients, tokens=200, stream=True)
        running = asyncio.ensure_future(load.run(count=clients))
        await asyncio.sleep(2.0)
        for victim in engines:
            await asyncio.to_thread(victim.kill)
        killed_at = time.monotonic()
        await running
        return [outcome.ended - killed_at for outcome in load.outcomes], load

    ends, load = asyncio.run(run())
    cut = [outcome for outcome in load.outcomes if outcome.has_byte]
    with_error = [outcome for outcome in cut if outcome.has_error_event]
    expected = answer_text(200).split(" ")
    wrong = [outcome for outcome in cut if "".join(outcome.tokens).split(" ") != expected[: len(outcome.tokens)]]
    record(
        f"{len(with_error)} of {len(cut)} cut streams ended with an SSE error, the last after {max(ends):.2f} s; "
        f"{len(wrong)} with a token twice or missing",
        target="all, within 1 s, 0",
    )
    assert len(cut) == len(with_error) == clients
    assert wrong == []
    assert max(ends) < 1.0


def test_sigstop_one_of_four_engines(processes: Processes, full: bool, record: Record) -> None:
    engines = processes.engines("e", 4)
    root = processes.node("root", engines=engines)
    wait_for(root, 4)

    async def run(load: Load) -> None:
        end = time.monotonic() + (30.0 if full else 5.0)
        running = asyncio.ensure_future(load.run(until=lambda: time.monotonic() > end))
        await asyncio.sleep(0.5)
        engines[0].suspend()
        await running

    load = Load(addresses(root), clients=64 if full else 16, tokens=8, pause_s=0.0 if full else 0.02)
    asyncio.run(run(load))
    longest = max(outcome.wait for outcome in load.outcomes)
    record(
        f"{len(load.failed)} of {len(load.outcomes)} requests failed; the longest wait was {longest:.2f} s",
        target="0; 5 s",
    )
    assert load.failed == [], load.causes()
    assert longest < 5.0
    engines[0].resume()
    wait_for(root, 4)


def test_an_engine_that_flaps_every_2_s(processes: Processes, full: bool, record: Record) -> None:
    engines = processes.engines("e", 4)
    root = processes.node("root", engines=engines)
    wait_for(root, 4)

    async def run(load: Load) -> None:
        flaps = 8 if full else 1
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

    load = Load(addresses(root), clients=32 if full else 16, tokens=8, stream=True, pause_s=0.0 if full else 0.02)
    asyncio.run(run(load))
    share = len(load.failed) / len(load.outcomes)
    unsent = [outcome for outcome in load.failed if not outcome.has_byte]
    record(
        f"{share:.2%} of {len(load.outcomes)} requests failed, {len(unsent)} of them before a byte",
        target="1 %",
    )
    assert share <= 0.01, load.causes()
    assert unsent == []


def test_all_engines_respond_with_503(processes: Processes, full: bool, record: Record) -> None:
    """Four levels of nodes: the retries of the levels must not multiply."""
    engines = processes.engines("e", 4)
    root = processes.node("root")
    region = processes.node("region", parents=(root,))
    sites = [processes.node(f"site{number}", parents=(region,)) for number in (1, 2)]
    for number, site in enumerate(sites):
        processes.node(f"rack{number + 1}", parents=(site,), engines=engines[2 * number : 2 * number + 2])
    wait_for(root, 4)
    for engine in engines:
        engine.faults({"status": 503})

    def attempts() -> int:
        return sum(engine.get("/simulated")["faulted"] for engine in engines)

    if not full:  # otherwise the first hundred requests would be a large part of a short run
        asyncio.run(Load(addresses(root), clients=100).run(count=200))
    before = attempts()
    load = Load(addresses(root), clients=100)
    asyncio.run(load.run(count=10_000 if full else 800))
    average = (attempts() - before) / len(load.outcomes)
    highest = 0
    for _ in range(50 if full else 10):
        before = attempts()
        assert asyncio.run(send(addresses(root))).status == 503
        highest = max(highest, attempts() - before)
    record(f"{average:.3f} attempts per request on average, at most {highest}", target="1.2, 3")
    assert {outcome.status for outcome in load.outcomes} == {503}
    assert average <= 1.2
    assert highest <= 3
