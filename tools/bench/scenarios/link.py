"""Reverse links: their cost relative to direct ones, a burst on a cold link, and a parent that restarts."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import Counter
from functools import partial

import httpx

from bench.benchmark import STREAM_S, WARM_S, Benchmark, Result, Scale
from bench.load import RESPONSE_DEADLINE_S, Connection, Sample, completion
from bench.scenarios.throughput import JSON_CONNECTIONS, STREAMS
from bench.table import Row, amount, middle, ratio, spread
from bench.testbed import HERE, ROOT, BenchError, Process, target

LIMIT = 1.05  # × a direct link
BURST_TIMES = 3
REGISTERED_LIMIT_S, FILLED_LIMIT_S = 10.0, 60.0
LINKS_EACH = 8  # idle links of a child, by default
_LINKS = re.compile(r'^hierarchy_links\{[^}]*state="idle"[^}]*\} ([0-9.]+)$', re.MULTILINE)


def seconds(scale: Scale, routers: int) -> float:
    """`Scenario.seconds`."""
    return 40 + scale.rounds * 2 * (2 * scale.seconds + 2 * WARM_S + STREAM_S)


async def links(benchmark: Benchmark) -> Result:
    """CPU time with both kinds of link; failed requests of a burst; time to recover from a restart."""
    rows = await _cost(benchmark)
    rows += [await _burst(benchmark), *await _restart(benchmark)]
    return Result(rows)


async def _cost(benchmark: Benchmark) -> list[Row]:
    engines = (await benchmark.common()).engines
    direct, reverse = (benchmark.testbed.two_levels(engines, link) for link in ("direct", "reverse"))
    await benchmark.testbed.ready([direct, reverse])
    pair = [direct, reverse]
    found = await benchmark.rounds(
        "links, JSON requests", pair, lambda one: benchmark.measure(one, completion, JSON_CONNECTIONS)
    )
    costs = {name: [one.us_per_response for one in measured] for name, measured in found.items()}
    rows = [_row("JSON request", costs[reverse.name], costs[direct.name])]
    request = partial(completion, stream=True)
    found = await benchmark.rounds(
        "links, streams", pair, lambda one: benchmark.measure(one, request, STREAMS, over_s=STREAM_S)
    )
    costs = {name: [one.us_per_chunk for one in measured] for name, measured in found.items()}
    return [*rows, _row("SSE chunk", costs[reverse.name], costs[direct.name])]


def _row(what: str, reverse: list[float], direct: list[float]) -> Row:
    detail = f"{spread(reverse, 'µs')}; direct {spread(direct, 'µs')}"
    return Row(f"{what}, two levels by a reverse link", ratio(reverse, direct), "× a direct link", LIMIT, detail)


async def _burst(benchmark: Benchmark) -> Row:
    """Many requests at once, each time on a link that has carried almost nothing."""
    engines, count = (await benchmark.common()).engines, benchmark.scale.burst
    problems: Counter[str] = Counter()
    longest = []
    for number in range(BURST_TIMES):
        benchmark.progress(f"{count} requests at once on a cold link: {number + 1} of {BURST_TIMES}")
        cold = benchmark.testbed.two_levels(engines, "reverse")
        await benchmark.testbed.ready([cold])
        longest.append(await _at_once(cold.urls[0], count, problems))
        for process in cold.processes:
            benchmark.testbed.kill(process)
    failed = sum(problems.values())
    reasons = "; ".join(f"{count} × {problem}" for problem, count in problems.items())
    detail = f"of {BURST_TIMES} × {count:,}; last response after {amount(1000 * middle(longest), 'ms')}"
    return Row(
        "requests that failed in a burst on a cold link", failed, "", 0, f"{detail}; {reasons}" if reasons else detail
    )


async def _at_once(url: str, count: int, problems: Counter[str]) -> float:
    """Seconds until the last response. Counts the problems of the others."""
    sample = Sample()
    connections = [await Connection.open(url, sample) for _ in range(count)]
    request = completion(url)
    start = time.perf_counter()
    async with asyncio.timeout(RESPONSE_DEADLINE_S):
        responses = await asyncio.gather(*(one.send(request) for one in connections), return_exceptions=True)
    took = time.perf_counter() - start
    for response in responses:
        if response != 200:
            problems[f"status {response}" if isinstance(response, int) else str(response)] += 1
    for connection in connections:
        connection.transport.abort()
    return took


async def _restart(benchmark: Benchmark) -> list[Row]:
    """Kill a parent with SIGKILL and start another one at its address."""
    count = benchmark.scale.linked
    benchmark.progress(f"{count} children of a parent that restarts")
    first = benchmark.testbed.node("parent")
    script = [sys.executable, HERE / "children.py", first.url, count]
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}"}
    children = benchmark.testbed.start("children", script, 0, env)
    await _until(first, count)
    benchmark.testbed.kill(first)
    await asyncio.sleep(3)  # until all children have noticed, and their pauses between two attempts are the longest
    again = benchmark.testbed.node("parent", port=int(first.url.rpartition(":")[2]))
    registered_s, filled_s = await _until(again, count)
    for process in (children, again):
        benchmark.testbed.kill(process)
    detail = f"of {count}; each had {LINKS_EACH} idle links after {filled_s:.1f} s"
    return [
        Row(
            "all children registered again after a restart of the parent", registered_s, "s", REGISTERED_LIMIT_S, detail
        ),
    ]


async def _until(parent: Process, children: int) -> tuple[float, float]:
    """Seconds from the parent's first response until all children are registered, and until they have all idle links.

    Raises:
        BenchError: that took longer than `FILLED_LIMIT_S`.
    """
    first_response = registered_s = 0.0
    deadline = time.monotonic() + FILLED_LIMIT_S
    seen = "no response"
    async with httpx.AsyncClient(trust_env=False, base_url=parent.url, timeout=10) as http:
        while time.monotonic() < deadline and parent.pid in target("", parent).pids:
            await asyncio.sleep(0.1)
            try:
                text = (await http.get("/metrics")).text
            except httpx.HTTPError:
                continue
            now = time.monotonic()
            first_response = first_response or now
            count, idle = text.count("hierarchy_child_up{"), sum(map(float, _LINKS.findall(text)))
            seen = f"{count} children with {idle:g} links"
            if count == children:
                registered_s = registered_s or now - first_response
                if idle >= children * LINKS_EACH:
                    return registered_s, now - first_response
    raise BenchError(f"{seen} after {FILLED_LIMIT_S:g} s, instead of {children} with {children * LINKS_EACH}")
