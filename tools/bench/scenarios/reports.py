"""The CPU time of a node with a thousand children, each of which reports every second."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import msgspec

from bench import procfs
from bench.benchmark import Benchmark, Result
from bench.load import Connection, Sample, every, post
from bench.table import Row, amount
from bench.testbed import BenchError, Process, target
from hierarchy.wire.messages import HeartBeat, Registration, WorkerStatus
from hierarchy.wire.status import ModelStatus

REPORT_S = 1.0
ENGINES = 4  # of each child
LIMIT_PERCENT = 10.0
MIN_SECONDS = 3.0  # at least three reports of each child
READY_DEADLINE_S = 30.0


async def reports(benchmark: Benchmark) -> Result:
    """CPU time of a root while its children report; then of a node that reports them to its own parent."""
    count = benchmark.scale.children
    top = benchmark.testbed.node("top")
    rows = []
    for what, limit, node in (
        ("a root", LIMIT_PERCENT, benchmark.testbed.node("hub")),
        ("a node with a parent", None, benchmark.testbed.node("site", parent=top)),
    ):
        benchmark.progress(f"{count} children reporting to {what}")
        percent, per_report = await _measure(benchmark, node, count)
        detail = f"{amount(per_report, 'µs')} per report"
        rows.append(Row(f"{count:,} children reporting to {what}", percent, "% of a core", limit, detail))
    return Result(rows)


async def _measure(benchmark: Benchmark, node: Process, count: int) -> tuple[float, float]:
    """(percent of a core, µs of CPU time per report). Raises BenchError."""
    sample = Sample()
    async with httpx.AsyncClient(trust_env=False, base_url=node.url) as http:
        await _wait_for(node, http)
        children = [_Child(number, node.url) for number in range(count)]
        await every(count, 16, lambda number: children[number].register(sample))
        reporting = [
            asyncio.create_task(child.report_forever(REPORT_S * n / count)) for n, child in enumerate(children)
        ]
        try:
            await asyncio.sleep(2 * REPORT_S)
            pids = target("", node).pids
            seconds = max(MIN_SECONDS, 2 * benchmark.scale.seconds)
            before, reported = procfs.cpu_s(pids), sample.responses
            await asyncio.sleep(seconds)
            used, reported = procfs.cpu_s(pids) - before, sample.responses - reported
            tree = (await http.get("/tree", timeout=30)).json()
        finally:
            for task in reporting:
                task.cancel()
            ended = await asyncio.gather(*reporting, return_exceptions=True)
            for child in children:
                child.leave()
    problems = {str(error) for error in ended if isinstance(error, Exception)}
    up = sum(child["state"] == "up" for child in tree["children"].values())
    if problems or up != count:
        raise BenchError(f"{up} of {count} reporting children are up; {'; '.join(sorted(problems)) or 'no error'}")
    return 100 * used / seconds, 1e6 * used / max(1, reported)


async def _wait_for(node: Process, http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(READY_DEADLINE_S):
        while True:
            try:
                await http.get("/health")
            except httpx.HTTPError:
                await asyncio.sleep(0.05)
            else:
                return


class _Child:
    """Sends what a node with four engines sends: one registration, then reports of what changed."""

    def __init__(self, number: int, parent: str) -> None:
        self._name = f"child-{number}"
        self._url = f"http://127.0.0.1:{number + 1}"  # registered, but never dialled
        self._instance = f"{number:016x}"
        self._parent = parent
        self._seq = 0
        self._connection: Connection | None = None

    async def register(self, sample: Sample) -> None:
        """Raises BenchError."""
        self._connection = await Connection.open(self._parent, sample)
        message = Registration(
            worker_name=self._url,
            check_heart_beat=True,
            worker_status=WorkerStatus(["bench", "other"], float(ENGINES), 0),
            children={f"gpu-{number}": self._engine(number) for number in range(ENGINES)},
            secret="0" * 32,
            **self._fields(0),
        )
        await self._send("/register_worker", message)

    async def report_forever(self, delay_s: float) -> None:
        """Report every `REPORT_S`, first after `delay_s`. Raises BenchError."""
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_s
        while True:
            await asyncio.sleep(due - loop.time())
            due += REPORT_S
            queue = random.randrange(40)
            changed: Any = {f"gpu-{n}": {"queue_length": random.randrange(20), "in_flight": queue} for n in range(2)}
            message = HeartBeat(
                worker_name=self._url, queue_length=queue, speed=float(ENGINES), children=changed, **self._fields(queue)
            )
            await self._send("/receive_heart_beat", message)

    def leave(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            self._connection.transport.abort()

    async def _send(self, path: str, message: msgspec.Struct) -> None:
        assert self._connection is not None
        status = await self._connection.send(post(self._parent, path, msgspec.json.encode(message)))
        if status != 200:
            raise BenchError(f"{path} of {self._name} got status {status}")

    def _fields(self, queue: int) -> dict[str, Any]:
        self._seq += 1
        models = [ModelStatus(name, "openai", float(ENGINES), queue // 2, 32) for name in ("bench", "other")]
        known = {"node": self._name, "instance": self._instance, "version": "0", "interval_s": REPORT_S}
        return {**known, "seq": self._seq, "seen": 0, "path": [self._instance], "models": models}

    def _engine(self, number: int) -> dict[str, Any]:
        models = [{"name": name, "api": "openai", "speed": 1.0, "queue_length": 0, "slots": 8} for name in ("bench",)]
        entry = {"name": f"gpu-{number}", "kind": "vllm", "url": f"http://10.0.0.{number}:8000", "state": "up"}
        return {
            **entry,
            "detail": "",
            "speed": 1.0,
            "queue_length": 0,
            "in_flight": 0,
            "models": models,
            "children": {},
        }
