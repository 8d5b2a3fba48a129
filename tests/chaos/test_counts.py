"""What the root counts beside what its clients saw, with every fault in turn. Every core is busy."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.chaos.conftest import Record
from tests.chaos.hogs import Hogs
from tests.chaos.load import Outcome, send
from tests.chaos.processes import Process, Processes, wait_for
from tests.chaos.test_engines import addresses

pytestmark = pytest.mark.slow

CLIENTS = 8
_LABEL = re.compile(r'(\w+)="([^"]*)"')
TOKENS = 6
#: of each engine, for each third request: none of them is ejected for what all do, so each fault is met
FAULTS: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "503": {"status": 503},
    "429": {"status": 429},
    "cut": {"cut_after_tokens": 2},
    "reset": {"reset": True},
    "reset later": {"reset_after_tokens": 2},
    "html": {"answer": "html"},
    "garbage": {"answer": "garbage"},
    "empty": {"answer": "empty"},
    "truncated": {"answer": "truncated"},
    "error event": {"answer": "error"},
    "slow": {"freeze_s": 0.3, "every": 8},
}


def _freeze(engine: Process, site: Process) -> None:
    engine.suspend()
    time.sleep(3.5)
    engine.resume()


#: faults of processes: what happens to the first engine or its site while requests run
PROCESS_FAULTS: dict[str, Callable[[Process, Process], None]] = {
    "kill -9 engine": lambda engine, site: engine.kill(),
    "SIGSTOP engine": _freeze,
    "kill -9 site": lambda engine, site: site.kill(),
}


#: outcomes that a client cannot tell apart: an error of the root's own, or one that it passed on
ERRORS = frozenset({"error", "refused", "timeout"})


def seen(outcome: Outcome) -> str:
    """What a client saw, in the words of the metric."""
    if outcome.left:
        return "cancelled"
    if outcome.status >= 500:
        return f"error {outcome.status}"
    if not outcome.complete or b"event: error\n" in outcome.body:  # the event of a node; engines send theirs as data
        return "cut"
    good = outcome.status != 200 or (outcome.ok if outcome.streamed else _is_answer(outcome.body))
    return f"{'ok' if good else 'error'} {outcome.status}"


def _is_answer(body: bytes) -> bool:
    try:
        return "choices" in json.loads(body)
    except ValueError:
        return False


def counted(root: Process) -> Counter[str]:
    """What the root counted for its clients."""
    counts: Counter[str] = Counter()
    for key, value in root.samples().items():
        if key.startswith("hierarchy_client_requests_total{"):
            labels = dict(_LABEL.findall(key))
            outcome = "error" if labels["outcome"] in ERRORS else labels["outcome"]
            counts[f"{outcome} {labels['status']}" if outcome in ("ok", "error") else outcome] += int(value)
    return counts


async def _requests(
    root: Process, count: int, cause: Callable[[], None] = lambda: None, *, leave: bool = False
) -> list[Outcome]:
    """Half are streams. leave: each fifth stream is left by its client. cause: a fault that happens meanwhile."""
    outcomes: list[Outcome] = []

    async def fail() -> None:
        await asyncio.sleep(0.2)
        await asyncio.to_thread(cause)

    async def client(first: int) -> None:
        for number in range(first, count, CLIENTS):
            stream = number // CLIENTS % 2 == 0
            leaves = leave and stream and number % 5 == 0
            outcomes.append(await send(addresses(root), tokens=200 if leaves else TOKENS, stream=stream, leave=leaves))

    await asyncio.gather(fail(), *(client(first) for first in range(CLIENTS)))
    return outcomes


def test_the_root_counts_what_clients_saw(processes: Processes, hogs: Hogs, full: bool, record: Record) -> None:
    root = processes.node("root")
    engines = processes.engines("e", 4, tokens=200)
    sites = [processes.node(f"site{n}", parents=(root,), engines=engines[2 * n - 2 : 2 * n]) for n in (1, 2)]
    wait_for(root, 4)
    phases = 1 + len(FAULTS) + len(PROCESS_FAULTS)
    each = -(-(10_000 if full else 800) // phases)
    outcomes: list[Outcome] = []
    by_phase: dict[str, tuple[Counter[str], Counter[str]]] = {}

    def phase(name: str, cause: Callable[[], None] = lambda: None, *, leave: bool = False) -> None:
        before = counted(root)
        came = asyncio.run(_requests(root, each, cause, leave=leave))
        outcomes.extend(came)
        by_phase[name] = Counter(map(seen, came)), Counter(counted(root)) - before

    phase("clients leave", leave=True)
    for name, fault in FAULTS.items():
        for engine in engines:
            engine.faults({"every": 3, **fault})
        phase(name)
        for engine in engines:
            engine.faults()
    for name, cause in PROCESS_FAULTS.items():
        phase(name, partial(cause, engines[0], sites[0]))
        for process in (engines[0], sites[0]):
            process.resume()
            if not process.exists:
                process.start()
        wait_for(root, 4, 60.0)
    for name, (clients, at_root) in by_phase.items():
        print(f"{name:16} clients {dict(+clients)}  root {dict(+at_root)}")  # noqa: T201
    clients, at_root = Counter(map(seen, outcomes)), counted(root)
    names = sorted({*clients, *at_root})
    record(
        f"{len(outcomes)} requests, clients / root: "
        + ", ".join(f"{name} {clients[name]} / {at_root[name]}" for name in names),
        target="equal",
    )
    assert at_root == clients
    for name in ("ok", "cut", "cancelled"):  # of attempts; those that failed were made up for, or are errors above
        seen_by_clients = sum(count for words, count in clients.items() if words.split()[0] == name)
        assert root.total("hierarchy_requests_total", f'outcome="{name}"') == seen_by_clients, name
