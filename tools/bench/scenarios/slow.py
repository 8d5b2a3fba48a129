"""A client that reads 1 KB/s: its effect on other clients, and the memory that each node holds for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial
from urllib.parse import urlsplit

from bench import procfs
from bench.benchmark import STREAM_S, Benchmark, Result
from bench.load import completion
from bench.scenarios.throughput import STREAMS
from bench.table import Row, amount, middle, percentile, spread
from bench.testbed import Target

FLOOD = "flood"  # model of the engine that sends as fast as it can
READ_BYTES, READ_EVERY_S = 1024, 1.0
RECEIVE_BUFFER = 4096  # so that the client's kernel buffers little
LIMIT_PERCENT, LIMIT_KIB = 10.0, 256.0
SETTLE_S = 3.0
ROUNDS = 2  # for each round of the scale, since a single p99 on a busy machine varies much


async def slow_client(benchmark: Benchmark) -> Result:
    """100 streams through three levels, with and without a slow client; then 20 slow clients alone."""
    testbed, scale = benchmark.testbed, benchmark.scale
    engines = [
        testbed.engine(),
        testbed.engine("--model", FLOOD, "--interval", 0, "--chunks", 10**6, "--chunk-bytes", 1000),
    ]
    three = testbed.three_levels(engines)
    await testbed.ready([three])
    await testbed.ready([three], FLOOD)
    alone: list[float] = []
    with_slow: list[float] = []
    rounds = ROUNDS * scale.rounds
    for number in range(rounds):
        benchmark.progress(f"slow client: round {number + 1} of {rounds}")
        if number % 2 == 0:  # take turns, since the first measurement of a round differs
            alone.append(await _p99_ms(benchmark, three))
        async with _slow_readers(three.urls[0], 1):
            await asyncio.sleep(min(SETTLE_S, scale.seconds))
            with_slow.append(await _p99_ms(benchmark, three))
        if number % 2:
            alone.append(await _p99_ms(benchmark, three))
    added = 100 * (middle(with_slow) / middle(alone) - 1)
    detail = f"p99 of the time between chunks {spread(with_slow, 'ms')}; without {spread(alone, 'ms')}"
    rows = [Row(f"{STREAMS} streams beside a client of 1 KB/s, p99", added, "% more", LIMIT_PERCENT, detail)]
    benchmark.progress(f"{scale.slow} slow clients")
    before = [procfs.memory_kib([process.pid]) for process in three.processes]
    async with _slow_readers(three.urls[0], scale.slow):
        await asyncio.sleep(SETTLE_S)
        after = [procfs.memory_kib([process.pid]) for process in three.processes]
    each = {process.name: (b - a) / scale.slow for process, a, b in zip(three.processes, before, after, strict=True)}
    detail = ", ".join(f"{name} {amount(kib, 'KiB')}" for name, kib in each.items())
    rows.append(Row("memory held for a client of 1 KB/s, per node", max(each.values()), "KiB", LIMIT_KIB, detail))
    return Result(rows)


async def _p99_ms(benchmark: Benchmark, three: Target) -> float:
    """p99 of the time between two reads of a stream."""
    request = partial(completion, stream=True)
    measured = await benchmark.measure(three, request, STREAMS, over_s=STREAM_S)
    return 1000 * percentile(measured.sample.gaps_s, 0.99)


@contextlib.asynccontextmanager
async def _slow_readers(url: str, count: int) -> AsyncIterator[None]:
    readers = [asyncio.create_task(_read_slowly(url)) for _ in range(count)]
    try:
        yield
        for reader in readers:
            if reader.done():
                await reader  # it ended too early: raises its error
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read_slowly(url: str) -> None:
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setblocking(False)
        await loop.sock_connect(sock, (parts.hostname, parts.port))
        await loop.sock_sendall(sock, completion(url, FLOOD, stream=True))
        while True:
            if not await loop.sock_recv(sock, READ_BYTES):
                raise ConnectionError("the response to the slow client ended")
            await asyncio.sleep(READ_EVERY_S)
