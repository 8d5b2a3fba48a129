"""How many requests engines report to run at once, on the paths that they have for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hierarchy.engines.adapters.limits import LIMITS, MAX_SLOTS, usable
from tests.engines.adapters.support import Answers

SGLANG, TGI, VLLM = "/v1/loads", "/info", "/server_info"


def ask(kind: str, responses: dict[str, tuple[int, Any]]) -> int:
    async def run() -> int:
        return await LIMITS[kind](Answers(responses))

    return asyncio.run(run())


def vllm(parallel: dict[str, Any], slots: object = 256) -> dict[str, Any]:
    return {"vllm_config": {"scheduler_config": {"max_num_seqs": slots}, "parallel_config": parallel}}


@pytest.mark.parametrize(
    ("kind", "path", "page", "slots"),
    [
        ("sglang", SGLANG, {"loads": [{"max_running_requests": 128}, {"max_running_requests": 64}]}, 192),
        ("sglang", SGLANG, {"loads": [{"max_running_requests": 128}, {"num_running_reqs": 3}]}, 0),
        ("tgi", TGI, {"max_batch_size": 32, "max_concurrent_requests": 128}, 32),
        ("tgi", TGI, {"max_batch_size": None, "max_concurrent_requests": 128}, 0),
        ("vllm", VLLM, vllm({}), 256),
        ("vllm", VLLM, vllm({"data_parallel_size": 4}), 1024),
        ("vllm", VLLM, vllm({"data_parallel_size": 4, "data_parallel_external_lb": True}), 0),
        ("vllm", VLLM, {"vllm_config": "VllmConfig(max_num_seqs=256)"}, 0),
    ],
)
def test_each_engine_reports_its_limit_where_it_has_one(kind: str, path: str, page: object, slots: int) -> None:
    assert ask(kind, {path: (200, page)}) == slots
    assert ask(kind, {path: (404, "Not Found")}) == 0


@pytest.mark.parametrize("value", [0, -1, True, "8", 8.0, None, [], MAX_SLOTS + 1, 10**30])
def test_absurd_numbers_are_none(value: object) -> None:
    assert usable(value) == 0
    assert ask("sglang", {SGLANG: (200, {"loads": [{"max_running_requests": value}]})}) == 0
    assert ask("tgi", {TGI: (200, {"max_batch_size": value})}) == 0
    assert ask("vllm", {VLLM: (200, vllm({}, value))}) == 0


@pytest.mark.parametrize("page", [[], '"text"', {"loads": 3}, {"loads": []}, {"loads": [3]}, {"vllm_config": []}])
@pytest.mark.parametrize("kind", LIMITS)
def test_other_pages_report_no_limit(kind: str, page: object) -> None:
    assert ask(kind, dict.fromkeys((SGLANG, TGI, VLLM), (200, page))) == 0
