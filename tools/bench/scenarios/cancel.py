"""Cancels through three levels: how soon the engine sees them, and whether each lease is released."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable

import httpx

from bench.benchmark import Benchmark, Common, Result
from bench.load import Connection, Sample, completion, every
from bench.table import Row, percentile

AT_ONCE = 20  # streams that run while cancels are timed
AT_ONCE_UNTIMED = 50  # while they are not
LIMITS_MS = {0.5: 5.0, 0.99: 30.0}
SETTLE_DEADLINE_S = 10.0


async def cancels(benchmark: Benchmark) -> Result:
    """Timed cancels; then many more at any moment of a request, after which the open leases are counted."""
    common, scale = await benchmark.common(), benchmark.scale
    disconnected: dict[str, float] = {}  # name of the stream → when its client disconnected
    benchmark.progress(f"{scale.cancels} cancels, timed")
    await every(scale.cancels, AT_ONCE, lambda number: _cancel(common.three.urls[0], f"cancel-{number}", disconnected))
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        seen = await _seen(http, common, disconnected)
        delays_ms = [1000 * (seen[name] - then) for name, then in disconnected.items() if name in seen]
        rows = [
            Row(f"cancel seen by the engine, p{100 * part:.0f}", percentile(delays_ms, part), "ms", limit,
                f"{len(delays_ms)} of {scale.cancels} seen; at most {max(delays_ms, default=0):.1f} ms")
            for part, limit in LIMITS_MS.items()
        ]  # fmt: skip
        benchmark.progress(f"{scale.leases} cancels, then a count of leases")
        await every(scale.leases, AT_ONCE_UNTIMED, lambda number: _cancel(common.three.urls[0], "", None))
        leaked = await _leaked(http, common)
    rows.append(Row(f"leases leaked in {scale.leases:,} cancels", leaked, "", 0, "three nodes and the engines"))
    return Result(rows)


async def _cancel(url: str, name: str, disconnected: dict[str, float] | None) -> None:
    """Start a stream and disconnect in the first 50 ms of its tokens.

    disconnected: gets the time; None: not timed, and the client may disconnect before the first token.
    """
    connection = await Connection.open(url, Sample())
    connection.send(completion(url, stream=True, user=name))
    if disconnected is not None or random.random() < 0.7:
        assert connection.started is not None
        async with asyncio.timeout(30):
            await connection.started
    await asyncio.sleep(random.uniform(0, 0.05 if disconnected is not None else 0.01))
    if disconnected is not None:
        disconnected[name] = time.monotonic()
    connection.transport.close()


async def _seen(http: httpx.AsyncClient, common: Common, names: Iterable[str]) -> dict[str, float]:
    """When the engines saw the clients of these streams disconnect. Those not seen before the deadline are missing."""
    deadline = time.monotonic() + SETTLE_DEADLINE_S
    while True:
        seen: dict[str, float] = {}
        for engine in common.engines:
            seen |= (await http.get(f"{engine.url}/gone")).json()["gone"]
        if all(name in seen for name in names) or time.monotonic() > deadline:
            return seen
        await asyncio.sleep(0.1)


async def _leaked(http: httpx.AsyncClient, common: Common) -> int:
    """Leases open at the nodes plus streams running at the engines, when all should have ended."""
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
