"""A client that leaves: how soon the engine knows, through three levels, and whether every lease comes back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable

import httpx

from bench.load import Connection, Sample, completion, every
from bench.stage import Common, Result, Stage
from bench.table import Row, percentile

AT_ONCE = 20  # streams that run when one of them is cancelled
AT_ONCE_UNTIMED = 50
LIMITS_MS = {0.5: 5.0, 0.99: 30.0}
SETTLE_DEADLINE_S = 10.0


async def cancels(stage: Stage) -> Result:
    """500 cancels that are timed, then 10,000 at any moment of a request, after which leases are counted."""
    common, scale = await stage.common(), stage.scale
    left: dict[str, float] = {}
    stage.say(f"{scale.cancels} cancels, timed")
    await every(scale.cancels, AT_ONCE, lambda number: _cancel(common.three.urls[0], f"cancel-{number}", left))
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        seen = await _seen(http, common, left)
        delays_ms = [1000 * (seen[name] - when) for name, when in left.items() if name in seen]
        rows = [
            Row(f"cancel seen by the engine, p{100 * part:.0f}", percentile(delays_ms, part), "ms", limit,
                f"{len(delays_ms)} of {scale.cancels} seen; at most {max(delays_ms, default=0):.1f} ms")
            for part, limit in LIMITS_MS.items()
        ]  # fmt: skip
        stage.say(f"{scale.leases} cancels, for their leases")
        await every(scale.leases, AT_ONCE_UNTIMED, lambda number: _cancel(common.three.urls[0], "", None))
        leaked = await _leaked(http, common)
    rows.append(Row(f"leases leaked in {scale.leases:,} cancels", leaked, "", 0, "three nodes and the engines"))
    return Result(rows)


async def _cancel(url: str, name: str, left: dict[str, float] | None) -> None:
    """Begin a stream and leave it: within its first 50 ms of tokens; untimed, also before the first."""
    connection = await Connection.open(url, Sample())
    connection.ask(completion(url, stream=True, user=name))
    if left is not None or random.random() < 0.7:
        assert connection.started is not None
        async with asyncio.timeout(30):
            await connection.started
    await asyncio.sleep(random.uniform(0, 0.05 if left is not None else 0.01))
    if left is not None:
        left[name] = time.monotonic()
    connection.transport.close()


async def _seen(http: httpx.AsyncClient, common: Common, wanted: Iterable[str]) -> dict[str, float]:
    """When the engines saw the clients of these streams leave; those that did not come in time are missing."""
    deadline = time.monotonic() + SETTLE_DEADLINE_S
    while True:
        seen: dict[str, float] = {}
        for engine in common.engines:
            seen |= (await http.get(f"{engine.url}/gone")).json()["gone"]
        if all(name in seen for name in wanted) or time.monotonic() > deadline:
            return seen
        await asyncio.sleep(0.1)


async def _leaked(http: httpx.AsyncClient, common: Common) -> int:
    """Leases still open at the nodes, and streams still running at the engines, once all should have ended."""
    deadline = time.monotonic() + SETTLE_DEADLINE_S
    while True:
        open_ = 0
        for node in common.three.processes:
            open_ += (await http.get(f"{node.url}/tree")).json()["in_flight"]
        for engine in common.engines:
            open_ += (await http.get(f"{engine.url}/gone")).json()["running"]
        if not open_ or time.monotonic() > deadline:
            return open_
        await asyncio.sleep(0.1)
