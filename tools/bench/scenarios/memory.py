"""Thousands of streams open at once in one process: what each costs, whether it stays so, whether all go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from bench import proc
from bench.bed import Target
from bench.load import Connection, Sample, completion, every
from bench.plots import Bar, bars
from bench.stage import Result, Stage
from bench.table import Row, amount, middle

INTERVAL_S = 2.0  # between two chunks of one stream
STALLED_S = 3 * INTERVAL_S
AT_ONCE = 64  # connections being opened
SPARE = 300  # descriptors for everything but streams
SETTLE_S = 1.0
LIMIT_KIB, FLAT_PERCENT = 14.0, 5.0


async def open_streams(stage: Stage) -> Result:
    """9,000 streams of a chunk each 2 s."""
    bed, count = stage.bed, _affordable(stage)
    engines = [bed.worker("--interval", INTERVAL_S, "--chunks", 10**6) for _ in range(2)]
    node, nginx = bed.one_level(engines), bed.nginx(engines)
    targets = [node, *([nginx] if nginx else [])]
    await bed.ready(targets)
    rows: list[Row] = []
    chart: list[Bar] = []
    if nginx:
        stage.say(f"{count} open streams through nginx")
        beside = await _hold(stage, nginx, count, 2 * INTERVAL_S)
        chart.append(Bar("nginx", beside.kib_each))
    stage.say(f"{count} open streams for {stage.scale.hold_s:g} s")
    held = await _hold(stage, node, count, stage.scale.hold_s)
    chart.insert(0, Bar(node.name, held.kib_each, "ours"))
    what = f"{count:,} streams open at once"
    detail = f"{amount(held.base_kib / 1024, 'MiB')} before" + (
        f"; nginx {amount(beside.kib_each, 'KiB')} each" if nginx else ""
    )
    rows.append(Row(f"{what}, memory of each", held.kib_each, "KiB", LIMIT_KIB, detail))
    detail = f"in {stage.scale.hold_s:g} s, looked at {len(held.kib)} times"
    rows.append(Row(f"{what}, growth", held.growth_percent, "%", FLAT_PERCENT, detail))
    rows.append(Row(f"{what}, stalled or lost", held.stalled, "", 0, f"a chunk each {INTERVAL_S:g} s"))
    title = f"Memory of each of {count:,} open streams (dashed: the target)"
    return Result(rows, {"memory.svg": bars(title, "KiB", chart, LIMIT_KIB)})


def _affordable(stage: Stage) -> int:
    """As many streams as the descriptors of one process allow: a router needs two for each."""
    limit = proc.raise_descriptor_limit()
    count = min(stage.scale.streams, (limit - SPARE) // 2)
    if count < stage.scale.streams:
        stage.note(f"{count} instead of {stage.scale.streams} open streams: `ulimit -Hn` is {limit} here")
    return count


class Held:
    """What was seen while streams were held open. base_kib: memory before; kib: above that, as time went on."""

    def __init__(self, count: int, base_kib: int) -> None:
        self.count = count
        self.base_kib = base_kib
        self.kib: list[float] = []
        self.stalled = 0

    @property
    def kib_each(self) -> float:
        """At the worst moment."""
        return max(self.kib) / self.count

    @property
    def growth_percent(self) -> float:
        """From the first quarter of the time to the last."""
        quarter = max(1, len(self.kib) // 4)
        first, last = middle(self.kib[:quarter]), middle(self.kib[-quarter:])
        return 100 * (last - first) / first if first > 0 else 0.0


async def _hold(stage: Stage, target: Target, count: int, hold_s: float) -> Held:
    sample = Sample()
    warm: list[Connection] = []
    await every(max(1, count // 90), AT_ONCE, lambda number: _open(target, sample, warm))
    await _close(warm)
    await asyncio.sleep(SETTLE_S)
    pids = target.pids
    held = Held(count, proc.memory_kib(pids))
    streams: list[Connection] = []
    try:
        await every(count, AT_ONCE, lambda number: _open(target, sample, streams))
        await asyncio.sleep(INTERVAL_S)
        end = time.perf_counter() + hold_s
        while time.perf_counter() < end or not held.kib:
            await asyncio.sleep(max(1.0, hold_s / 30))
            held.kib.append(proc.memory_kib(pids) - held.base_kib)
            sample.gaps_s.clear()
            held.stalled = max(held.stalled, _stalled(streams))
    finally:
        await _close(streams)
    return held


async def _open(target: Target, sample: Sample, into: list[Connection]) -> None:
    """Returns at the stream's first chunk."""
    connection = await Connection.open(target.urls[0], sample)
    into.append(connection)
    connection.ask(completion(target.urls[0], stream=True))
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
