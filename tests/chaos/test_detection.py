"""Dead engines are found soon, and one that was only suspected keeps its work. Every core is busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.chaos.conftest import Record
from tests.chaos.hogs import Hogs
from tests.chaos.load import Load, get, send
from tests.chaos.namespace import Namespace
from tests.chaos.processes import Process, Processes, wait_for
from tests.chaos.test_engines import addresses
from tests.chaos.watch import Watch
from tests.subnets.network import obstacle

pytestmark = pytest.mark.slow

LATE_S = 3.8  # a probe begins each second, with jitter, and is late after 2.5 s
RESET = ({"on": "generate", "reset": True}, {"on": "probe", "reset": True})


def _one_of_four_dies(
    processes: Processes,
    record: Record,
    full: bool,
    die: Callable[[Process], None],
    limit_s: float,
    *,
    probe_s: float = 0.0,
) -> None:
    """Load on four engines, of which one dies. Found: the node knows it, and its requests went to others."""
    engines = processes.engines("e", 4)
    for engine in engines:
        engine.faults({"on": "probe", "delay_first_byte_s": probe_s})
    node = processes.node("node", engines=engines)
    wait_for(node, 4)
    loads = [
        Load(addresses(node), clients=32 if full else 8, tokens=8, stream=stream, pause_s=0.02)
        for stream in (False, True)
    ]

    async def run() -> tuple[float, float | None]:
        done = False
        async with Watch(node) as watch:
            running = asyncio.gather(*(load.run(until=lambda: done) for load in loads))
            await asyncio.sleep(1.0)
            died_at = time.monotonic()
            await asyncio.to_thread(die, engines[0])
            await asyncio.sleep(limit_s + 2.0)
            done = True
            await running
        return died_at, watch.seconds_until("simulated-1", died_at)

    died_at, found_s = asyncio.run(run())
    outcomes = [outcome for load in loads for outcome in load.outcomes]
    failed = [outcome for load in loads for outcome in load.failed]
    unsent = [outcome for outcome in failed if not outcome.has_byte]
    longest = max(outcome.wait for outcome in outcomes if outcome.ended > died_at)
    found = "never" if found_s is None else f"after {found_s:.2f} s"
    record(
        f"found {found}, the longest wait was {longest:.2f} s; {len(unsent)} of "
        f"{len(outcomes)} requests without a byte failed, {len(failed) - len(unsent)} streams were cut",
        target=f"{limit_s:g} s; 0",
    )
    assert unsent == [], "; ".join(map(str, unsent[:5]))
    assert found_s is not None
    assert found_s <= limit_s
    assert longest <= limit_s + 1.0  # and then it is served elsewhere


@pytest.mark.parametrize("death", ["kill -9", "reset"])
def test_one_of_four_engines_dies(processes: Processes, hogs: Hogs, full: bool, record: Record, death: str) -> None:
    def die(engine: Process) -> None:
        if death == "reset":
            engine.faults(*RESET)
        else:
            engine.kill()

    _one_of_four_dies(processes, record, full, die, 1.0)


@pytest.mark.parametrize("probe_s", [0.0, 0.4], ids=["idle", "busy"])
def test_one_of_four_engines_falls_into_a_black_hole(
    tmp_path_factory: pytest.TempPathFactory, hogs: Hogs, full: bool, record: Record, probe_s: float
) -> None:
    """All its packets are lost, in both directions, as behind a cable that was pulled.

    If its probes take long, one was probably sent and acknowledged before, and only its response is lost.
    """
    if reason := obstacle():
        pytest.skip(reason)
    if not (probe_s or full):
        pytest.skip("idle engines only with --full")
    with Namespace() as namespace:

        def test() -> None:
            with Processes(tmp_path_factory.mktemp("black-hole"), namespace.inside) as processes:
                _one_of_four_dies(
                    processes, record, full, lambda engine: namespace.swallow(engine.port), 5.0, probe_s=probe_s
                )

        namespace.call(test)


async def _idle_s(engine: Process, until: Callable[[], bool]) -> float:
    """The longest time that an engine had nothing to do, in seconds."""
    longest, since = 0.0, None
    while not until():
        running = b'"running":0,' in (await get(("127.0.0.1", engine.port), "/simulated")).replace(b" ", b"")
        now = time.monotonic()
        since = (since or now) if running else None
        longest = max(longest, now - since if since else 0.0)
        await asyncio.sleep(0.05)
    return longest


def test_one_late_probe_under_overload_moves_nothing(
    processes: Processes, hogs: Hogs, full: bool, record: Record
) -> None:
    """For two seconds requests arrive at four times the rate that two engines can serve; then one freezes."""
    slots, engine_rate = 8, 8.0  # an answer takes a second
    engines = processes.engines("e", 2, slots=slots, tokens_per_s=16.0, tokens=16)
    node = processes.node("node", engines=engines)
    wait_for(node, 2)
    count = int(4 * 2 * engine_rate * 2.0) * (4 if full else 1)

    async def run() -> tuple[list[object], float, float]:
        ended = 0

        async def one(number: int) -> object:
            nonlocal ended
            await asyncio.sleep(2.0 * number / count)
            outcome = await send(addresses(node), tokens=16, timeout_s=120.0)
            ended += 1
            return outcome if not outcome.ok else None

        requests = asyncio.gather(*(one(number) for number in range(count)))
        await asyncio.sleep(1.5)
        engines[0].suspend()
        await asyncio.sleep(LATE_S)
        engines[0].resume()
        back_at = time.monotonic()
        # Towards the end an engine is idle because nothing is left to do.
        idle_s = await _idle_s(engines[0], lambda: ended >= count - 2 * slots)
        work_s = time.monotonic() - back_at
        return [outcome for outcome in await requests if outcome], idle_s, work_s

    failed, idle_s, work_s = asyncio.run(run())
    moved = engines[0].get("/simulated")["cancelled"]
    warnings = node.log.read_text().count("WARNING")
    record(
        f"{moved} of {count} requests moved; the suspect was idle for {idle_s:.2f} s of {work_s:.1f} s; "
        f"{warnings} warnings; {len(failed)} failed",
        target=f"{slots}, the sibling's slots; 2 s",
    )
    assert failed == []
    assert moved <= slots
    assert idle_s < 2.0
