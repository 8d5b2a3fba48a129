"""Replays the corpus and some thousand mutations of it. `__main__` continues from here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from hierarchy.relay.downstream.head_cache import HeadCache
from tests.relay.fuzz import strict, target
from tests.relay.raw import MODEL, post, post_head

RUNS = 1500  # a round; three rounds


@pytest.mark.parametrize("path", sorted(target.CORPUS.iterdir()), ids=lambda path: path.stem)
def test_the_corpus(path: object) -> None:
    assert hasattr(path, "read_bytes")
    data = path.read_bytes()

    async def replay() -> None:
        seen = HeadCache()
        for cuts in ([], [], list(range(1, len(data))), [len(data) // 2]):
            await target.requests(data, cuts, seen)

    asyncio.run(replay())


def test_responses() -> None:
    async def replay() -> None:
        for data in target.ANSWERS:
            for cut in range(len(data) + 1):
                await target.responses(data[:cut], [])
            await target.responses(data, list(range(1, len(data))))

    asyncio.run(replay())


@pytest.mark.parametrize("seed", range(3))
def test_mutated_requests(seed: int) -> None:
    async def run() -> None:
        rng, seeds, seen = Random(seed), target.corpus(), HeadCache()
        for _ in range(RUNS):
            data, cuts = target.mutate(rng, seeds)
            try:
                await target.requests(data, cuts, seen)
            except BaseException as error:
                raise AssertionError(f"{data!r} split at {cuts}") from error

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(3))
def test_mutated_responses(seed: int) -> None:
    async def run() -> None:
        rng = Random(seed)
        for _ in range(RUNS):
            data, cuts = target.mutate(rng, target.ANSWERS)
            try:
                await target.responses(data, cuts)
            except BaseException as error:
                raise AssertionError(f"{data!r} split at {cuts}") from error

    asyncio.run(run())


@pytest.mark.parametrize(
    ("data", "count", "malformed", "whole"),
    [
        (post(), 1, False, True),
        (post() + post()[:-1], 1, False, False),
        (post() + b"\r\n\r\n" + post(), 2, False, True),
        (post() + b"nonsense\r\n\r\n" + post(), 1, True, False),
        (post(b'{"model":"x"}') + post(path=b"/v1/../x") + post(), 1, False, True),
        (post_head(b"transfer-encoding: chunked") + b'd\r\n{"model":"m"}\r\n0\r\nx: y\r\n\r\n', 1, False, True),
        (post(version=b"1.0") + post(), 1, False, False),
    ],
)
def test_the_strict_parser_itself(data: bytes, count: int, malformed: bool, whole: bool) -> None:
    reading = strict.read(data, MODEL)
    assert (len(reading.requests), reading.malformed, reading.whole) == (count, malformed, whole)


@pytest.mark.parametrize("broken", ["smuggles", "drops"])
def test_the_target_finds_planted_defects(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    play = target.play

    async def lying(*args: object) -> target.Outcome:
        outcome = await play(*args)  # type: ignore[arg-type]
        outcome.received = [*outcome.received, post()] if broken == "smuggles" else outcome.received[1:]
        return outcome

    monkeypatch.setattr(target, "play", lying)
    check: Callable[[], object] = lambda: asyncio.run(target.requests(post(), [], HeadCache()))  # noqa: E731
    with pytest.raises(AssertionError):
        check()
