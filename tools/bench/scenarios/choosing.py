"""How long choosing takes: the registry, the policy and the lease, without any network."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import deque

from bench.bed import BedError
from bench.stage import Result, Stage
from bench.table import Row, amount, middle
from hierarchy.balancing.dispatch import Dispatch
from hierarchy.registry import Registry
from hierarchy.registry.child import Lease
from hierarchy.wire.messages import Identity, Registration, WorkerStatus
from hierarchy.wire.status import ModelKey, ModelStatus, NodeStatus

CHILDREN = 100
IN_FLIGHT = 400  # leases held meanwhile, so that the children's loads differ and move
LIMITS_US = {"shortest_queue": 10.0, "p2c": 3.0}
KEY: ModelKey = ("bench", "openai")


async def choosing(stage: Stage) -> Result:
    """Among 100 children, while other requests begin and end; in a process of its own, that of the build measured."""
    rows = []
    for policy, limit in LIMITS_US.items():
        stage.say(f"choosing by {policy}")
        timed = [await _timed(stage, policy) for _ in range(stage.scale.rounds)]
        choice, lease = middle([one for one, _ in timed]), middle([other for _, other in timed])
        detail = f"with its lease and that one's end {amount(lease, 'µs')}"
        rows.append(Row(f"choosing among {CHILDREN} children, {policy}", choice, "µs", limit, detail))
    return Result(rows)


async def _timed(stage: Stage, policy: str) -> tuple[float, float]:
    home = stage.bed.home
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.scenarios.choosing", policy, str(stage.scale.choices)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(home), str(home / "tools")])},
        cwd=stage.bed.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode(errors="replace")
    if process.returncode:
        raise BedError(f"choosing by {policy} could not be timed: {(said.strip().splitlines() or ['no word'])[-1]}")
    choice, lease = map(float, said.split())
    return choice, lease


def _time(policy: str, times: int) -> tuple[float, float]:
    """µs of a choice alone, and of one with a lease and the end of an older lease."""
    dispatch = Dispatch(_registry(), policy, random.Random(1))
    leases: deque[Lease] = deque(dispatch.lease(KEY) for _ in range(IN_FLIGHT))
    began = time.perf_counter()
    for _ in range(times):
        leases.append(dispatch.lease(KEY))
        leases.popleft().release()
    whole = time.perf_counter() - began
    alone = 0.0
    for _ in range(times):
        began = time.perf_counter()
        dispatch.choose(KEY)
        alone += time.perf_counter() - began
        leases.append(dispatch.lease(KEY))
        leases.popleft().release()
    return 1e6 * alone / times, 1e6 * whole / times


def _registry() -> Registry:
    """Children of different speeds that have all just reported."""
    registry = Registry(Identity("bench", "http://127.0.0.1:1", "bench"), time.monotonic)
    for number in range(CHILDREN):
        model = ModelStatus(*KEY, speed=1.0 + number % 4)
        status = NodeStatus((model,), model.speed)
        registry.register(
            Registration(
                worker_name=f"http://127.0.0.1:{number + 2}",
                check_heart_beat=False,
                worker_status=WorkerStatus(status.model_names, status.speed),
                node=f"child-{number}",
                instance=f"{number:016x}",
                models=list(status.models),
            )
        )
    return registry


if __name__ == "__main__":
    print(*_time(sys.argv[1], int(sys.argv[2])))
