"""Thousands of streams open at once in one process: memory per stream, its growth, and stalled streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from bench import procfs
from bench.benchmark import Benchmark, Result
from bench.load import Connection, Sample, completion, every
from bench.plots import Bar, bars
from bench.table import Row, amount, middle
from bench.testbed import Target

INTERVAL_S = 2.0  # between two chunks of a stream
STALLED_S = 3 * INTERVAL_S  # without a chunk
AT_ONCE = 64  # connections that are being opened
SPARE = 300  # descriptors for everything else
SETTLE_S = 1.0
LIMIT_KIB, FLAT_PERCENT = 14.0, 5.0


async def open_streams(benchmark: Benchmark) -> Result:
    """9,000 streams with one chunk every 2 s."""
    testbed, count = benchmark.testbed, _affordable(benchmark)
    engines = [testbed.engine("--interval", INTERVAL_S, "--chunks", 10**6) for _ in range(2)]
    node, nginx = testbed.one_level(engines), testbed.nginx(engines)
    targets = [node, *([nginx] if nginx else [])]
    await testbed.ready(targets)
    rows: list[Row] = []
    chart: list[Bar] = []
    if nginx:
        benchmark.progress(f"{count} open streams through nginx")
        nginx_held = await _hold(benchmark, nginx, count, 2 * INTERVAL_S)
        chart.append(Bar("nginx", nginx_held.kib_each))
    benchmark.progress(f"{count} open streams for {benchmark.scale.hold_s:g} s")
    held = await _hold(benchmark, node, count, benchmark.scale.hold_s)
    chart.insert(0, Bar(node.name, held.kib_each, "hierarchy"))
    what = f"{count:,} open streams"
    detail = f"{amount(held.base_kib / 1024, 'MiB')} before" + (
        f"; nginx {amount(nginx_held.kib_each, 'KiB')} each" if nginx else ""
    )
    rows.append(Row(f"{what}, memory per stream", held.kib_each, "KiB", LIMIT_KIB, detail))
    detail = f"in {benchmark.scale.hold_s:g} s, {len(held.kib)} samples"
    rows.append(Row(f"{what}, growth", held.growth_percent, "%", FLAT_PERCENT, detail))
    rows.append(Row(f"{what}, stalled or lost", held.stalled, "", 0, f"one chunk every {INTERVAL_S:g} s"))
    title = f"Memory per stream, of {count:,} open streams (dashed: target)"
    return Result(rows, {"memory.svg": bars(title, "KiB", chart, LIMIT_KIB)})


def _affordable(benchmark: Benchmark) -> int:
    """The number of streams, limited by the descriptors of a process: a router needs two for each."""
    limit = procfs.raise_descriptor_limit()
    count = min(benchmark.scale.streams, (limit - SPARE) // 2)
    if count < benchmark.scale.streams:
        benchmark.add_note(f"{count} instead of {benchmark.scale.streams} open streams: `ulimit -Hn` is {limit} here")
    return count


class Held:
    """Measurements while `count` streams were open. base_kib: memory before."""

    def __init__(self, count: int, base_kib: int) -> None:
        self.count = count
        self.base_kib = base_kib
        self.kib: list[float] = []  # samples of the memory, minus base_kib
        self.stalled = 0  # streams, at most

    @property
    def kib_each(self) -> float:
        """Memory per stream, at most."""
        return max(self.kib) / self.count

    @property
    def growth_percent(self) -> float:
        """Growth from the first quarter of the samples to the last."""
        quarter = max(1, len(self.kib) // 4)
        first, last = middle(self.kib[:quarter]), middle(self.kib[-quarter:])
        return 100 * (last - first) / first if first > 0 else 0.0


async def _hold(benchmark: Benchmark, target: Target, count: int, hold_s: float) -> Held:
    """Open the streams, observe them for `hold_s`, and close them."""
    sample = Sample()
    warm: list[Connection] = []
    await every(max(1, count // 90), AT_ONCE, lambda number: _open(target, sample, warm))
    await _close(warm)
    await asyncio.sleep(SETTLE_S)
    pids = target.pids
    held = Held(count, procfs.memory_kib(pids))
    streams: list[Connection] = []
    try:
        await every(count, AT_ONCE, lambda number: _open(target, sample, streams))
        await asyncio.sleep(INTERVAL_S)
        end = time.perf_counter() + hold_s
        while time.perf_counter() < end or not held.kib:
            await asyncio.sleep(max(1.0, hold_s / 30))
            held.kib.append(procfs.memory_kib(pids) - held.base_kib)
            sample.gaps_s.clear()
            held.stalled = max(held.stalled, _stalled(streams))
    finally:
        await _close(streams)
    return held


async def _open(target: Target, sample: Sample, into: list[Connection]) -> None:
    """Open a stream and wait for its first chunk."""
    connection = await Connection.open(target.urls[0], sample)
    into.append(connection)
    connection.send(completion(target.urls[0], stream=True))
    assert connection.started is not None
    async with asyncio.timeout(30):
        await connection.started


def _stalled(streams: Sequence[Connection]) -> int:
    now = time.perf_counter()
    return sum(not stream.usable or now - stream.last > STALLED_S for stream in streams)


async def _close(streams: Sequence[Connection]) -> None:
    for stream in streams:
        stream.transport.abort()
    await asyncio.sleep(SETTLE_S)
