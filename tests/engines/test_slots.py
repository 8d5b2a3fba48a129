"""How many requests an engine runs at once: declared, reported, seen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.engines import slots as module
from hierarchy.engines.kinds import ADAPTERS
from hierarchy.engines.slots import PROBES, Concurrency, WithSlots
from hierarchy.errors import EngineUnreadable
from tests.clocks import Clock
from tests.engines.adapters.support import Answers, llamacpp, sglang, vllm

Probe = tuple[int, int]  # running, waiting


def metrics(running: int, waiting: int) -> tuple[int, str]:
    labels = '{model_name="m"}'
    return 200, f"vllm:num_requests_running{labels} {running}\nvllm:num_requests_waiting{labels} {waiting}\n"


def seen(probes: Sequence[Probe], told: int = 0) -> list[int]:
    watched = Concurrency()
    return [watched.note(running, waiting, told) for running, waiting in probes]


@pytest.mark.parametrize(
    ("told", "probes", "expected"),
    [
        (0, [(3, 0), (9, 0)], [0, 0]),  # nothing waits: nobody knows
        (0, [(5, 1), (5, 0), (6, 2), (4, 0)], [0, 0, 0, 0]),  # those that wait have come a moment ago
        (0, [(5, 1), (6, 4), (6, 9), (3, 0)], [0, 0, 6, 6]),
        (0, [(5, 1), (6, 4), (6, 9), (6, 0), (7, 0)], [0, 0, 6, 7, 8]),  # there was room for another one
        (256, [(3, 0), (256, 3)], [256, 256]),
        (256, [(60, 5)] * 3 + [(60, 5)] * 3 + [(60, 5)] * 3, [256] * 2 + [128] * 3 + [64] * 3 + [60]),  # memory is full
        (256, [(1, 5)] * 3 + [(70, 0), (140, 0), (200, 0), (250, 0)], [256, 256, 128, 128, 175, 250, 256]),
        (1, [(8, 0)], [8]),  # it runs more than it reports
        (0, [(0, 4)] * 5, [0] * 5),  # it runs nothing: it does not serve yet
    ],
)
def test_slots_are_what_runs_while_others_wait(told: int, probes: list[Probe], expected: list[int]) -> None:
    assert seen(probes, told) == expected


@given(st.integers(1, 300), st.lists(st.integers(0, 400), min_size=20, max_size=60))
def test_an_engine_under_load_is_found_to_have_the_slots_that_it_has(true: int, loads: list[int]) -> None:
    """It never reports more than it can have, and a queue that lasts shows them exactly."""
    watched = Concurrency()
    for load in loads:
        running = min(load, true)
        found = watched.note(running, load - running, 0)
        assert found == 0 or found >= running
        assert found <= max(true + 1, int(true * module.GROWTH))
    for _ in range(40 * PROBES):
        found = watched.note(true, 5, 0)
    assert found == true


def read(
    kind: str, responses: dict[str, Any], reader: WithSlots | None = None, declared: int = 0
) -> tuple[Any, Answers]:
    engine = Answers(responses)
    reader = reader or WithSlots(ADAPTERS[kind], declared, Clock())
    return asyncio.run(reader.read(engine, 1.0)), engine


def test_what_is_declared_counts_whatever_the_engine_does() -> None:
    for kind, responses in (("vllm", vllm()), ("llamacpp", llamacpp("busy")), ("sglang", sglang())):
        status, _ = read(kind, responses, declared=7)
        assert {model.slots for model in status.models} == {7}


def test_an_engine_is_asked_once_for_its_limit() -> None:
    page = {"vllm_config": {"scheduler_config": {"max_num_seqs": 32}}}
    reader, asked = WithSlots(ADAPTERS["vllm"], 0, Clock()), 0
    for _ in range(3):
        status, engine = read("vllm", vllm(server_info=(200, page), metrics=metrics(3, 0)), reader)
        assert {model.slots for model in status.models} == {32}
        asked += sum(path.startswith("/server_info") for path in engine.asked)
    assert asked == 1
    with pytest.raises(EngineUnreadable):
        read("vllm", vllm(health=(503, "")), reader)
    status, engine = read("vllm", vllm(server_info=(404, ""), metrics=metrics(3, 0)), reader)  # another process
    assert {model.slots for model in status.models} == {0}
    _, engine = read("vllm", vllm(server_info=(200, page), metrics=metrics(3, 0)), reader)
    assert not any(path.startswith("/server_info") for path in engine.asked)


def test_an_engine_without_time_to_answer_is_up_and_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_TIMEOUT_S", 0.01)
    clock = Clock()
    reader = WithSlots(ADAPTERS["vllm"], 0, clock)
    page = {"vllm_config": {"scheduler_config": {"max_num_seqs": 32}}}
    responses = vllm(server_info=(200, page), metrics=metrics(3, 0))
    assert asyncio.run(reader.read(Answers(responses, hanging="/server_info"), 1.0)).models[0].slots == 0
    assert asyncio.run(reader.read(Answers(responses), 1.0)).models[0].slots == 0
    clock.tick(module.ASK_AGAIN_S)
    assert asyncio.run(reader.read(Answers(responses), 1.0)).models[0].slots == 32


def test_an_engine_that_runs_fewer_than_it_reports_is_found_out() -> None:
    page = {"loads": [{"max_running_requests": 4096}]}
    reader = WithSlots(ADAPTERS["sglang"], 0, Clock())
    for _ in range(30):
        status, _ = read("sglang", sglang(**{"v1/loads": (200, page)}), reader)  # 8 run, 3 wait
    assert status.models[0].slots == 8


def test_llamacpp_reports_its_slots_and_nothing_else_counts() -> None:
    reader = WithSlots(ADAPTERS["llamacpp"], 0, Clock())
    for _ in range(5):
        status, _ = read("llamacpp", llamacpp("busy"), reader)
        assert [model.slots for model in status.models] == [2]
