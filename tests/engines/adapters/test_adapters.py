"""What adapters of several engines have in common, against the responses of each engine."""

from __future__ import annotations

from typing import get_args

import pytest

from hierarchy.config.models import EngineKind
from hierarchy.engines.kinds import ADAPTERS
from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.engines.adapters.support import MODELS, Responses, page, read, sglang

ENGINES: dict[str, Responses] = {
    "sglang": sglang(),
    "tgi": {"/health": (200, ""), "/v1/models": page("tgi_models.json"), "/metrics": page("tgi_metrics.txt")},
    "lmdeploy": {"/health": (200, ""), "/v1/models": (200, MODELS), "/metrics": page("lmdeploy_metrics.txt")},
    "ollama": {"/api/version": (200, {"version": "0.12.6"}), "/v1/models": page("ollama_models.json")},
}


def test_every_kind_has_an_adapter() -> None:
    assert set(ADAPTERS) == set(get_args(EngineKind))
    assert all(adapter.kind == kind for kind, adapter in ADAPTERS.items())


@pytest.mark.parametrize(
    ("kind", "models", "queue_length"),
    [
        ("sglang", ["meta-llama/Llama-3.1-8B-Instruct"], 5 + 3 + 1 + 2),
        ("tgi", ["HuggingFaceH4/zephyr-7b-beta"], 4 + 7),
        ("lmdeploy", ["m"], 3 + 2 + 6),
        ("ollama", ["gemma3:latest", "llama3.2:1b"], 0),
    ],
)
def test_models_and_load(kind: str, models: list[str], queue_length: int) -> None:
    status = read(kind, ENGINES[kind], speed=2)
    rows = tuple(ModelStatus(name, "openai", 2, queue_length) for name in models)
    assert status == NodeStatus(rows, 2, queue_length, waiting=status.waiting)


@pytest.mark.parametrize("kind", ["sglang", "tgi", "lmdeploy"])
@pytest.mark.parametrize("response", [(404, "Not Found"), (200, ""), (200, "<!doctype html>")])
def test_without_metrics_an_engine_is_up_with_an_empty_queue(kind: str, response: tuple[int, str]) -> None:
    status = read(kind, {**ENGINES[kind], "/metrics": response})
    assert (status.queue_length, len(status.models)) == (0, 1)


@pytest.mark.parametrize("kind", ["sglang", "tgi", "lmdeploy"])
def test_an_engine_that_reports_itself_unhealthy_is_unreadable(kind: str) -> None:
    with pytest.raises(EngineUnreadable, match="/health answered 503"):
        read(kind, {**ENGINES[kind], "/health": (503, "")})


@pytest.mark.parametrize("kind", ENGINES)
def test_another_server_is_unreadable(kind: str) -> None:
    with pytest.raises(EngineUnreadable):
        read(kind, {})


@pytest.mark.parametrize(("kind", "waiting"), [("sglang", 1 + 2), ("tgi", 7), ("lmdeploy", 2 + 6), ("ollama", -1)])
def test_those_that_wait_are_known_where_the_engine_counts_them(kind: str, waiting: int) -> None:
    assert read(kind, ENGINES[kind]).waiting == waiting
