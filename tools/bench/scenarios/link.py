"""The reverse link: its cost beside a direct one, a burst on a cold link, children of a parent that restarts."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import Counter
from functools import partial

import httpx

from bench.bed import HERE, ROOT, BedError, Process, target
from bench.load import ANSWER_DEADLINE_S, Connection, Sample, completion
from bench.scenarios.throughput import JSON_CONNECTIONS, STREAMS
from bench.stage import STREAM_S, WARM_S, Result, Scale, Stage
from bench.table import Row, amount, middle, ratio, spread

LIMIT = 1.05  # × a direct link
BURST_TIMES = 3
REGISTERED_LIMIT_S, FILLED_LIMIT_S = 10.0, 60.0
LINKS_EACH = 8
_LINKS = re.compile(r'^hierarchy_links\{[^}]*state="idle"[^}]*\} ([0-9.]+)$', re.MULTILINE)


def seconds(scale: Scale, routers: int) -> float:
    """About how long it takes."""
    return 40 + scale.rounds * 2 * (2 * scale.seconds + 2 * WARM_S + STREAM_S)


async def links(stage: Stage) -> Result:
    """CPU by either kind of link, interleaved; then failures of a burst; then seconds after a restart."""
    rows = await _cost(stage)
    rows += [await _burst(stage), *await _restart(stage)]
    return Result(rows)


async def _cost(stage: Stage) -> list[Row]:
    engines = (await stage.common()).engines
    direct, reverse = (stage.bed.two_levels(engines, link) for link in ("direct", "reverse"))
    await stage.bed.ready([direct, reverse])
    pair = [direct, reverse]
    found = await stage.rounds(
        "links, JSON requests", pair, lambda one: stage.measure(one, completion, JSON_CONNECTIONS)
    )
    costs = {name: [one.us_per_answer for one in measured] for name, measured in found.items()}
    rows = [_row("JSON request", costs[reverse.name], costs[direct.name])]
    request = partial(completion, stream=True)
    found = await stage.rounds(
        "links, streams", pair, lambda one: stage.measure(one, request, STREAMS, over_s=STREAM_S)
    )
    costs = {name: [one.us_per_chunk for one in measured] for name, measured in found.items()}
    return [*rows, _row("SSE chunk", costs[reverse.name], costs[direct.name])]


def _row(what: str, reverse: list[float], direct: list[float]) -> Row:
    detail = f"{spread(reverse, 'µs')}; direct {spread(direct, 'µs')}"
    return Row(f"{what}, two levels by a reverse link", ratio(reverse, direct), "× a direct link", LIMIT, detail)


async def _burst(stage: Stage) -> Row:
    """Requests at once, each time down a link that has carried next to nothing."""
    engines, count = (await stage.common()).engines, stage.scale.burst
    problems: Counter[str] = Counter()
    longest = []
    for number in range(BURST_TIMES):
        stage.say(f"{count} requests at once on a cold link: {number + 1} of {BURST_TIMES}")
        cold = stage.bed.two_levels(engines, "reverse")
        await stage.bed.ready([cold])
        longest.append(await _at_once(cold.urls[0], count, problems))
        for process in cold.processes:
            stage.bed.kill(process)
    failed = sum(problems.values())
    why = "; ".join(f"{count} × {problem}" for problem, count in problems.items())
    detail = f"of {BURST_TIMES} × {count:,}; the last answer after {amount(1000 * middle(longest), 'ms')}"
    return Row("requests that failed in a burst on a cold link", failed, "", 0, f"{detail}; {why}" if why else detail)


async def _at_once(url: str, count: int, problems: Counter[str]) -> float:
    """Seconds until the last answer."""
    sample = Sample()
    connections = [await Connection.open(url, sample) for _ in range(count)]
    request = completion(url)
    began = time.perf_counter()
    async with asyncio.timeout(ANSWER_DEADLINE_S):
        answers = await asyncio.gather(*(one.ask(request) for one in connections), return_exceptions=True)
    took = time.perf_counter() - began
    for answer in answers:
        if answer != 200:
            problems[f"status {answer}" if isinstance(answer, int) else str(answer)] += 1
    for connection in connections:
        connection.transport.abort()
    return took


async def _restart(stage: Stage) -> list[Row]:
    """kill -9 of a parent, and another in its place."""
    count = stage.scale.linked
    stage.say(f"{count} children of a parent that restarts")
    first = stage.bed.node("parent")
    script = [sys.executable, HERE / "children.py", first.url, count]
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}"}
    children = stage.bed.start("children", script, 0, env)
    await _until(first, count)
    stage.bed.kill(first)
    await asyncio.sleep(3)  # until all have noticed, and wait as long between two attempts as they ever do
    again = stage.bed.node("parent", port=int(first.url.rpartition(":")[2]))
    registered_s, filled_s = await _until(again, count)
    for process in (children, again):
        stage.bed.kill(process)
    detail = f"of {count}; their reserves of {LINKS_EACH} are full after {filled_s:.1f} s"
    return [
        Row("children registered again after a parent's restart", registered_s, "s", REGISTERED_LIMIT_S, detail),
    ]


async def _until(parent: Process, children: int) -> tuple[float, float]:
    """Seconds from its first answer until all children are registered, and until their reserves are full."""
    began = registered_s = 0.0
    deadline = time.monotonic() + FILLED_LIMIT_S
    said = "no answer"
    async with httpx.AsyncClient(trust_env=False, base_url=parent.url, timeout=10) as http:
        while time.monotonic() < deadline and parent.pid in target("", parent).pids:
            await asyncio.sleep(0.1)
            try:
                text = (await http.get("/metrics")).text
            except httpx.HTTPError:
                continue
            now = time.monotonic()
            began = began or now
            count, idle = text.count("hierarchy_child_up{"), sum(map(float, _LINKS.findall(text)))
            said = f"{count} children with {idle:g} links"
            if count == children:
                registered_s = registered_s or now - began
                if idle >= children * LINKS_EACH:
                    return registered_s, now - began
    raise BedError(f"{said} after {FILLED_LIMIT_S:g} s, instead of {children} with {children * LINKS_EACH}")
