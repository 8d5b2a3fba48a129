"""A trace as a load: which format it has, and when its requests are sent."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from hierarchy.errors import UsageError
from hierarchy.simulation.load import Load
from hierarchy.simulation.request import Conversation, Turn
from hierarchy.simulation.traces import records
from hierarchy.simulation.traces.lines import first_line
from hierarchy.simulation.traces.records import Recorded

THINK_S: Final = 15.0  # mean time between a response and the next question, in traces without times

Reader = Callable[[Path], Iterator[Recorded]]


class _Facts(NamedTuple):
    """What a first reading shows. Times in seconds."""

    conversations: int
    requests: int
    first_s: float | None
    last_s: float


def read_trace(file: Path, rate: float | None, seed: int) -> Callable[[], Load]:
    """What makes the load that a trace describes. The whole file is checked first.

    rate: requests a second; None for the trace's own times.

    Raises:
        UsageError: it cannot be read or understood; or it has no times, and there is no rate.
    """
    reader = _reader(file)
    facts = _facts(file, reader)
    if facts.first_s is None:
        if rate is None:
            raise UsageError(f"--trace {file}: has no times; add --rate with the requests a second")
        begins_per_s = rate * facts.conversations / facts.requests
        return lambda: _load(_untimed(file, reader, begins_per_s, seed), facts)
    first_s, length_s = facts.first_s, facts.last_s - facts.first_s
    pace = facts.requests / rate / length_s if rate is not None and length_s else 1.0
    return lambda: _load(_timed(file, reader, first_s, pace), facts)


def _load(conversations: Iterator[Conversation], facts: _Facts) -> Load:
    return Load(conversations, facts.conversations, warm_up_s=0.0, steady_s=0.0, is_cut=False)


def _reader(file: Path) -> Reader:
    """The format, from the first line. Raises `UsageError`."""
    line = first_line(file)
    columns = {column.strip().strip('"') for column in line.split(",")}
    if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= columns:
        return records.azure
    if {"Timestamp", "Request tokens", "Response tokens"} <= columns:
        return records.burstgpt
    if line.startswith("["):
        return functools.partial(records.sharegpt, is_array=True)
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    if isinstance(fields, dict):
        if "hash_ids" in fields:
            return records.mooncake
        if "conversations" in fields or "messages" in fields:
            return functools.partial(records.sharegpt, is_array=False)
        if "prompt" in fields:
            return records.prompts
    raise UsageError(
        f"{file}:1: is not a trace that is known here: Mooncake's (hash_ids), Azure's (ContextTokens), "
        "BurstGPT's (Request tokens), ShareGPT's (conversations) or prompts (prompt)"
    )


def _facts(file: Path, reader: Reader) -> _Facts:
    conversations = requests = 0
    first: float | None = None
    last = 0.0
    for recorded in reader(file):
        conversations += 1
        requests += len(recorded.requests)
        if recorded.at_s is not None:
            first = recorded.at_s if first is None else min(first, recorded.at_s)
            last = max(last, recorded.at_s)
    if not conversations:
        raise UsageError(f"--trace {file}: has no requests")
    return _Facts(conversations, requests, first, last)


def _timed(file: Path, reader: Reader, first_s: float, pace: float) -> Iterator[Conversation]:
    """At the trace's times, `pace` times as long. What is out of order is sent when its turn comes."""
    for recorded in reader(file):
        at_s = ((recorded.at_s or first_s) - first_s) * pace
        turns = (Turn(0.0, *request) for request in recorded.requests)
        yield Conversation(at_s, 0, turns)


def _untimed(file: Path, reader: Reader, rate: float, seed: int) -> Iterator[Conversation]:
    """So many conversations a second."""
    rng, now = Random(seed), 0.0
    for number, recorded in enumerate(reader(file)):
        now += rng.expovariate(rate)
        yield Conversation(now, number + 1, _spaced(recorded, Random(rng.random())))


def _spaced(recorded: Recorded, rng: Random) -> Iterator[Turn]:
    for number, request in enumerate(recorded.requests):
        yield Turn(rng.expovariate(1 / THINK_S) if number else 0.0, *request)
