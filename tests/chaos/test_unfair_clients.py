"""One client, or one engine, that tries to keep a node for itself: all others are served, and hardly later."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest

from tests.chaos.attackers import Attack
from tests.chaos.conftest import Record
from tests.chaos.load import Load
from tests.chaos.processes import Process, Processes, wait_for
from tests.support import eventually, free_port

pytestmark = pytest.mark.slow

ADDED_S = 0.25  # that an attack may add to the 99th percentile
FLOODS = ("local-requests", "heartbeats", "failing-requests", "one-byte-chunks")
#: bytes of bodies that a node may hold here
LIMIT = 128 << 20


def _measure(node: Process, seconds: float) -> Load:
    """Four clients in a closed loop for some seconds."""
    load = Load([("127.0.0.1", node.port)], clients=4, tokens=1, pause_s=0.02)
    ends = time.monotonic() + seconds
    asyncio.run(load.run(until=lambda: time.monotonic() >= ends))
    return load


def _p99(load: Load) -> float:
    return statistics.quantiles([outcome.seconds for outcome in load.outcomes], n=100)[-1]


def _check(record: Record, before: Load, during: Load, more: str = "") -> None:
    added = _p99(during) - _p99(before)
    failed = len(during.failed)
    record(
        f"{len(during.outcomes) - failed} of {len(during.outcomes)} answered, p99 {1000 * _p99(before):.0f} ms and "
        f"{1000 * added:+.0f} ms{more}",
        target=f"all; {1000 * ADDED_S:.0f} ms",
    )
    assert failed == 0, during.causes()
    assert added <= ADDED_S


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_on_one_connection(processes: Processes, full: bool, record: Record, kind: str) -> None:
    node = processes.node("node", engines=processes.engines("e", 1, tokens_per_s=10_000))
    wait_for(node, 1)
    seconds = 20.0 if full else 3.0
    before = _measure(node, seconds)
    with Attack(kind, node.port):
        time.sleep(0.5)
        during = _measure(node, seconds)
    _check(record, before, during)


def test_an_engine_that_answers_with_interim_responses_for_ever(
    processes: Processes, full: bool, record: Record
) -> None:
    good = processes.engine("good", tokens_per_s=10_000)
    evil = Process(processes, "evil", [], free_port())
    evil.kind = "openai"
    with Attack("endless-interim", evil.port):
        node = processes.node("node", engines=[good, evil])
        wait_for(node, 2)
        during = _measure(node, 20.0 if full else 3.0)
        assert "interim responses" in node.log.read_text()
    failed = len(during.failed)
    record(
        f"{len(during.outcomes) - failed} of {len(during.outcomes)} answered, p99 {1000 * _p99(during):.0f} ms",
        target=f"all; {1000 * ADDED_S:.0f} ms",
    )
    assert failed == 0, during.causes()
    assert _p99(during) <= 2 * ADDED_S


def test_idle_strangers_shut_nobody_out(processes: Processes, full: bool, record: Record) -> None:
    """240 connections that never send a byte, at a node that may have 256 files."""
    node = processes.node("node", engines=processes.engines("e", 1, tokens_per_s=10_000), files=256)
    wait_for(node, 1)
    seconds = 20.0 if full else 3.0
    before = _measure(node, seconds)
    with Attack("idle-strangers", node.port):
        eventually(lambda: node.total("hierarchy_connections") > 50, "the strangers")
        during = _measure(node, seconds)
        log = node.log.read_text()
        lines = log.count("file descriptors") + log.count("idle ones of it are closed")
    _check(record, before, during, f", {lines} lines")
    assert 1 <= lines <= 3 + seconds / 2


@pytest.mark.parametrize(("kind", "first"), [("unfinished-bodies", 20 << 20), ("two-byte-chunks", 1 << 18)])
def test_bodies_that_fill_the_memory(processes: Processes, full: bool, record: Record, kind: str, first: int) -> None:
    """first: bytes that the node holds when the others begin; short pieces, in turns, come slowly."""
    engines = processes.engines("e", 1, tokens_per_s=10_000)
    node = processes.node("node", engines=engines, max_held_bytes=LIMIT)
    wait_for(node, 1)
    seconds = 20.0 if full else 3.0
    before, rss = _measure(node, seconds), node.rss_bytes()
    with Attack(kind, node.port):
        eventually(lambda: node.total("hierarchy_held_bytes") > first, "the bodies", 30.0)
        during = _measure(node, seconds)
        grown = node.rss_bytes() - rss
    _check(record, before, during, f", {grown >> 20} MiB more")
    assert grown <= 2 * LIMIT
    eventually(lambda: node.total("hierarchy_held_bytes") == 0, "all to be given back", 30.0)
