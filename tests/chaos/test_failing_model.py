"""An engine that fails at once for one of its models: found by its failures, while its other model is unharmed."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.chaos.conftest import Record
from tests.chaos.hogs import Hogs
from tests.chaos.load import Load, Outcome, send
from tests.chaos.processes import Process, Processes, wait_for
from tests.chaos.test_engines import addresses
from tests.chaos.watch import DEAD, Watch

pytestmark = pytest.mark.slow

BAD, GOOD = "bad", "good"
FAULT = {"status": 500, "model": BAD}
EJECTION_S = 2.0  # the first one; failures after it are tries whether the engine is well again


def _tree(processes: Processes, levels: int) -> tuple[Process, list[Process], Process]:
    """Three engines with two models, below one node or two racks. Returns root, engines, the node above the first."""
    engines = processes.engines("e", 3, models=(BAD, GOOD))
    if levels == 1:
        node = processes.node("node", engines=engines)
        wait_for(node, 3)
        return node, engines, node
    root = processes.node("root")
    site = processes.node("site", parents=(root,))
    racks = [
        processes.node("rack1", parents=(site,), engines=engines[:2]),
        processes.node("rack2", parents=(site,), engines=engines[2:]),
    ]
    wait_for(root, 3)
    return root, engines, racks[0]


@pytest.mark.parametrize(("levels", "limit"), [(1, 3), (3, 5)])
def test_one_of_three_engines_fails_for_one_model(
    processes: Processes, hogs: Hogs, full: bool, record: Record, levels: int, limit: int
) -> None:
    node, engines, above = _tree(processes, levels)
    count = 600 if full else 90
    engines[0].faults(FAULT)

    async def run() -> tuple[Load, Load]:
        bad, good = (Load(addresses(node), clients=1, tokens=2, model=model) for model in (BAD, GOOD))
        done = False
        beside = asyncio.ensure_future(good.run(until=lambda: done))
        await bad.run(count=count)
        done = True
        await beside
        return bad, good

    bad, good = asyncio.run(run())
    failed = bad.failed
    first = failed[0].ended if failed else 0.0
    before = [outcome for outcome in failed if outcome.started < first + EJECTION_S]
    path = _path(above, 1)
    served = sum(outcome.path.endswith(path) for outcome in good.outcomes)
    record(
        f"{len(before)} failures before it was out, {len(failed)} of {count} requests in all; its other model: "
        f"{len(good.failed)} of {len(good.outcomes)} failed, {served} served there",
        target=f"{limit}; 0",
    )
    assert len(before) <= limit, bad.causes()
    assert good.failed == [], good.causes()
    assert served > 0


def _path(node: Process, number: int) -> str:
    """The end of `x-hierarchy-path` for an engine of a node."""
    return f"simulated-{number}"


def test_if_all_engines_fail_none_is_ejected(processes: Processes, hogs: Hogs, full: bool, record: Record) -> None:
    """A request that every engine answers with 500 is to blame itself: no client can empty a model with it."""
    node, engines, _ = _tree(processes, 1)
    for engine in engines:
        engine.faults(FAULT)

    async def run() -> tuple[Load, list[str], list[Outcome]]:
        load = Load(addresses(node), clients=4, tokens=2, model=BAD)
        async with Watch(node) as watch:
            await load.run(count=600 if full else 90)
            await asyncio.sleep(0.2)
            for engine in engines:
                await asyncio.to_thread(engine.faults)
            cleared_at = time.monotonic()
            after = [await send(addresses(node), tokens=2, model=BAD) for _ in range(9)]
        states = {change.child: change.state for change in watch.changes if change.at < cleared_at}
        return load, [child for child, state in states.items() if state in DEAD], after

    load, ejected, after = asyncio.run(run())
    engines_after = {outcome.path for outcome in after if outcome.ok}
    record(
        f"{len(load.failed)} of {len(load.outcomes)} requests failed, {len(ejected)} engines ejected at their end; "
        f"then {len(engines_after)} engines served {sum(outcome.ok for outcome in after)} of {len(after)}",
        target="all, 0; 9",
    )
    assert {outcome.status for outcome in load.outcomes} == {500}
    assert ejected == []
    assert [outcome for outcome in after if not outcome.ok] == []
