"""The time to choose a child: registry, policy and lease, without a network."""

from __future__ import annotations

import random
import sys
import time
from collections import deque
from collections.abc import Sequence

from bench.benchmark import Benchmark, Result
from bench.own_process import run_alone
from bench.table import Row, amount, middle
from hierarchy.balancing.dispatch import Dispatch
from hierarchy.registry import Registry
from hierarchy.registry.child import Lease
from hierarchy.wire.messages import Identity, Registration, WorkerStatus
from hierarchy.wire.status import ModelKey, ModelStatus, NodeStatus

MODULE = "bench.scenarios.choosing"  # run in another process
CHILDREN = 100
SPEEDS = (1.0, 2.0, 3.0, 4.0)
IN_FLIGHT = 400  # open leases, so that the children's loads differ and change
LIMITS_US = {"shortest_queue": 10.0, "p2c": 3.0}
KEY: ModelKey = ("bench", "openai")


async def choosing(benchmark: Benchmark) -> Result:
    """Choosing among 100 children. Runs in a separate process, with the measured build."""
    rows = []
    for policy, limit in LIMITS_US.items():
        benchmark.progress(f"choosing by {policy}")
        what, times = f"choosing by {policy}", benchmark.scale.choices
        timed = [await run_alone(benchmark, MODULE, what, policy, times) for _ in range(benchmark.scale.rounds)]
        choice, lease = middle([one for one, _ in timed]), middle([other for _, other in timed])
        detail = f"including lease and release {amount(lease, 'µs')}"
        rows.append(Row(f"choosing among {CHILDREN} children, {policy}", choice, "µs", limit, detail))
    return Result(rows)


def _time(policy: str, times: int) -> tuple[float, float]:
    """µs of a choice, and of a choice with a lease and the release of an older lease."""
    dispatch = Dispatch(registry_of(CHILDREN, SPEEDS), policy, random.Random(1))
    leases: deque[Lease] = deque(dispatch.lease(KEY) for _ in range(IN_FLIGHT))
    start = time.perf_counter()
    for _ in range(times):
        leases.append(dispatch.lease(KEY))
        leases.popleft().release()
    whole = time.perf_counter() - start
    alone = 0.0
    for _ in range(times):
        start = time.perf_counter()
        dispatch.choose(KEY)
        alone += time.perf_counter() - start
        leases.append(dispatch.lease(KEY))
        leases.popleft().release()
    return 1e6 * alone / times, 1e6 * whole / times


def registry_of(children: int, speeds: Sequence[float], *, reads_prefix: bool = False) -> Registry:
    """A registry with so many children that are nodes. speeds: theirs, in turn."""
    registry = Registry(Identity("bench", "http://127.0.0.1:1", "bench"), time.monotonic)
    for number in range(children):
        model = ModelStatus(*KEY, speed=speeds[number % len(speeds)])
        status = NodeStatus((model,), model.speed)
        registry.register(
            Registration(
                worker_name=f"http://127.0.0.1:{number + 2}",
                check_heart_beat=False,
                worker_status=WorkerStatus(status.model_names, status.speed),
                node=f"child-{number}",
                instance=f"{number:016x}",
                models=list(status.models),
                reads_prefix=reads_prefix,
            )
        )
    return registry


if __name__ == "__main__":
    print(*_time(sys.argv[1], int(sys.argv[2])))
