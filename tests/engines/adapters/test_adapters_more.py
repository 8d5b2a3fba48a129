"""The adapters of SGLang, TGI, LMDeploy and Ollama, each against the responses of its engine (see data/README.md)."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from hierarchy.engines import ADAPTERS
from hierarchy.engines.adapters import sglang
from hierarchy.engines.adapters.reading import select_models
from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.engines.adapters.test_adapters import DATA, MODELS, URL, Responses, read

LLAMA = {"data": [{"id": "meta-llama/Llama-3.1-8B-Instruct"}]}


def page(name: str) -> tuple[int, str]:
    return 200, (DATA / name).read_text()


ENGINES: dict[str, Responses] = {
    "sglang": {"/health": (200, ""), "/v1/models": (200, LLAMA), "/metrics": page("sglang_metrics.txt")},
    "tgi": {"/health": (200, ""), "/v1/models": page("tgi_models.json"), "/metrics": page("tgi_metrics.txt")},
    "lmdeploy": {"/health": (200, ""), "/v1/models": (200, MODELS), "/metrics": page("lmdeploy_metrics.txt")},
    "ollama": {"/api/version": (200, {"version": "0.12.6"}), "/v1/models": page("ollama_models.json")},
}


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
    assert status == NodeStatus(rows, 2, queue_length)


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


def test_sglang_without_metrics_reports_its_load_elsewhere() -> None:
    responses = {**ENGINES["sglang"], "/metrics": (404, ""), "/v1/loads": page("sglang_loads.json")}
    assert read("sglang", responses).queue_length == 11


@pytest.mark.parametrize(
    "loads",
    ["[]", "{}", '{"loads": 3}', '{"loads": [3, {}, {"num_running_reqs": "9"}, {"num_running_reqs": true}]}',
     '{"loads": [{"num_running_reqs": -4, "num_waiting_reqs": 1e400}]}'.replace("1e400", "null")],
)  # fmt: skip
def test_malformed_loads_of_sglang_are_ignored(loads: str) -> None:
    responses = {**ENGINES["sglang"], "/metrics": (404, ""), "/v1/loads": (200, loads)}
    assert read("sglang", responses).queue_length == 0


@pytest.mark.parametrize("busy", [True, False])
def test_sglang_that_responds_late_is_busy_with_requests_and_hangs_without(
    busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sglang, "HEALTH_TIMEOUT_S", 0.02)
    responses = ENGINES["sglang"] if busy else {**ENGINES["sglang"], "/metrics": (404, "")}

    async def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health":
            await asyncio.Event().wait()
        status, body = responses.get(request.url.path, (404, ""))
        return httpx.Response(status, **({"text": body} if isinstance(body, str) else {"json": body}))

    async def run() -> NodeStatus:
        async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
            return await ADAPTERS["sglang"].read(http, URL, 1.0)

    if busy:
        assert asyncio.run(run()).queue_length == 11
    else:
        with pytest.raises(EngineUnreadable, match="though no request is running"):
            asyncio.run(run())


@pytest.mark.parametrize("version", [(404, ""), (200, []), (200, {"version": 3}), (200, "Ollama is running")])
def test_ollama_is_recognised_by_its_version(version: tuple[int, Any]) -> None:
    with pytest.raises(EngineUnreadable, match="/api/version"):
        read("ollama", {**ENGINES["ollama"], "/api/version": version})


# selecting models

LISTED = NodeStatus((ModelStatus("a", queue_length=1), ModelStatus("b", "fastchat"), ModelStatus("b")), 2.0, 3)


@pytest.mark.parametrize(
    ("models", "names", "missing"),
    [
        ({}, ["a", "b", "b"], []),
        ({"b": "b"}, ["b", "b"], []),
        ({"x": "a", "y": "a"}, ["x", "y"], []),
        ({"a": "b", "z": "c"}, ["a", "a"], ["c"]),
    ],
)
def test_models_are_selected_and_renamed(models: dict[str, str], names: list[str], missing: list[str]) -> None:
    status, absent = select_models(LISTED, models)
    assert ([model.name for model in status.models], absent) == (names, missing)
    assert (status.speed, status.queue_length) == (2.0, 3)


def test_an_engine_without_a_selected_model_has_no_speed() -> None:
    assert select_models(LISTED, {"x": "nope"}) == (NodeStatus((), 0.0, 3), ["nope"])
