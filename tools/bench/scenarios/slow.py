"""A client that reads 1 KB/s: whether others feel it, and how much of its answer the hops hold for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial
from urllib.parse import urlsplit

from bench import proc
from bench.bed import Target
from bench.load import completion
from bench.scenarios.throughput import STREAMS
from bench.stage import STREAM_S, Result, Stage
from bench.table import Row, amount, middle, percentile, spread

FLOOD = "flood"  # the model of an engine that sends as fast as it can
READ_BYTES, READ_EVERY_S = 1024, 1.0
RECEIVE_BUFFER = 4096  # so that the client's own kernel takes little
LIMIT_PERCENT, LIMIT_KIB = 10.0, 256.0
SETTLE_S = 3.0
ROUNDS = 2  # for each of the others': the p99 of one stretch on a busy machine says little


async def slow_client(stage: Stage) -> Result:
    """100 streams through three levels with and without one slow client beside them; then 20 slow ones alone."""
    bed, scale = stage.bed, stage.scale
    engines = [bed.worker(), bed.worker("--model", FLOOD, "--interval", 0, "--chunks", 10**6, "--chunk-bytes", 1000)]
    three = bed.three_levels(engines)
    await bed.ready([three])
    await bed.ready([three], FLOOD)
    alone: list[float] = []
    beside: list[float] = []
    rounds = ROUNDS * scale.rounds
    for number in range(rounds):
        stage.say(f"slow client: round {number + 1} of {rounds}")
        if number % 2 == 0:  # neither always comes first: what a round begins with is measured in another state
            alone.append(await _p99_ms(stage, three))
        async with _slow_readers(three.urls[0], 1):
            await asyncio.sleep(min(SETTLE_S, scale.seconds))
            beside.append(await _p99_ms(stage, three))
        if number % 2:
            alone.append(await _p99_ms(stage, three))
    added = 100 * (middle(beside) / middle(alone) - 1)
    detail = f"p99 of the time between two chunks {spread(beside, 'ms')}; without {spread(alone, 'ms')}"
    rows = [Row(f"{STREAMS} streams beside one client of 1 KB/s, p99", added, "% more", LIMIT_PERCENT, detail)]
    stage.say(f"{scale.slow} slow clients")
    before = [proc.memory_kib([process.pid]) for process in three.processes]
    async with _slow_readers(three.urls[0], scale.slow):
        await asyncio.sleep(SETTLE_S)
        after = [proc.memory_kib([process.pid]) for process in three.processes]
    each = {process.name: (b - a) / scale.slow for process, a, b in zip(three.processes, before, after, strict=True)}
    detail = ", ".join(f"{name} {amount(kib, 'KiB')}" for name, kib in each.items())
    rows.append(Row("held for a client of 1 KB/s, per hop", max(each.values()), "KiB", LIMIT_KIB, detail))
    return Result(rows)


async def _p99_ms(stage: Stage, three: Target) -> float:
    request = partial(completion, stream=True)
    measured = await stage.measure(three, request, STREAMS, over_s=STREAM_S)
    return 1000 * percentile(measured.sample.gaps_s, 0.99)


@contextlib.asynccontextmanager
async def _slow_readers(url: str, count: int) -> AsyncIterator[None]:
    readers = [asyncio.create_task(_read_slowly(url)) for _ in range(count)]
    try:
        yield
        for reader in readers:
            if reader.done():
                await reader  # it should be reading still: let its error be seen
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
                raise ConnectionError("the slow client's answer ended")
            await asyncio.sleep(READ_EVERY_S)
