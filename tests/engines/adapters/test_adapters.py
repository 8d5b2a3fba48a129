"""Each adapter against the responses of its engine: recorded if it can run here, else written after its docs."""

from __future__ import annotations

import asyncio
import json
import string
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.config.models import EngineKind
from hierarchy.engines import ADAPTERS
from hierarchy.engines.adapters import llamacpp
from hierarchy.engines.adapters.reading import MAX_RESPONSE_BYTES, EngineResponse
from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import ModelStatus, NodeStatus

DATA = Path(__file__).parent / "data"
URL = "http://engine:8000"
MODELS = {"object": "list", "data": [{"id": "m", "object": "model"}]}

Responses = dict[str, tuple[int, Any]]


def read(kind: str, responses: Responses, speed: float = 1.0, url: str = URL) -> NodeStatus:
    """Read an engine that sends these responses by path, and 404 for all other paths."""

    def respond(request: httpx.Request) -> httpx.Response:
        status, body = responses.get(request.url.path, (404, "Not Found"))
        return httpx.Response(status, **({"text": body} if isinstance(body, str) else {"json": body}))

    async def run() -> NodeStatus:
        async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
            return await ADAPTERS[kind].read(http, url, speed)

    return asyncio.run(run())


def recorded(state: str) -> Responses:
    pages = json.loads((DATA / f"llamacpp_{state}.json").read_text())
    return {path: (page["status"], page["body"]) for path, page in pages.items()}


def vllm(**changes: tuple[int, Any]) -> Responses:
    return {
        "/health": (200, ""),
        "/v1/models": (200, (DATA / "vllm_models.json").read_text()),
        "/metrics": (200, (DATA / "vllm_metrics.txt").read_text()),
        **{f"/{path}": response for path, response in changes.items()},
    }


def test_every_kind_has_an_adapter() -> None:
    assert set(ADAPTERS) == set(get_args(EngineKind))
    assert all(adapter.kind == kind for kind, adapter in ADAPTERS.items())


# openai


def test_openai_lists_models_in_order_and_reports_no_queue() -> None:
    entries = [{"id": "b"}, {"id": "a"}, {"id": "b"}]
    status = read("openai", {"/v1/models": (200, {"data": entries})}, speed=4)
    assert status == NodeStatus((ModelStatus("b", speed=4), ModelStatus("a", speed=4)), speed=4)


@pytest.mark.parametrize("junk", [7, None, [], {}, {"id": 3}, {"id": ""}, {"id": "x" * 300}, {"id": "a\nb"}])
def test_unusable_entries_of_the_model_list_are_left_out(junk: object) -> None:
    status = read("openai", {"/v1/models": (200, {"data": [junk, {"id": "good"}]})})
    assert status.model_names == ["good"]


def test_an_engine_without_models_has_no_speed() -> None:
    assert read("openai", {"/v1/models": (200, {"data": []})}, speed=4) == NodeStatus()


@pytest.mark.parametrize("body", ["", "<html>", "[]", "null", '{"data": 3}', '{"object": "list"}', "[" * 100_000])
def test_a_malformed_model_list_is_unreadable(body: str) -> None:
    with pytest.raises(EngineUnreadable, match=r"http://engine:8000/v1/models"):
        read("openai", {"/v1/models": (200, body)})


def test_an_error_response_is_quoted() -> None:
    with pytest.raises(EngineUnreadable, match=r"/v1/models answered 401: no\s+key"):
        read("openai", {"/v1/models": (401, "no\n key")})


def test_an_endless_response_is_cut_off() -> None:
    with pytest.raises(EngineUnreadable, match="more than"):
        read("openai", {"/v1/models": (200, " " * (MAX_RESPONSE_BYTES + 1))})


def test_a_trailing_slash_of_the_url_is_ignored() -> None:
    assert read("openai", {"/v1/models": (200, MODELS)}, url=URL + "/").model_names == ["m"]


# vllm


def test_vllm_ranks_are_summed_and_aliases_and_adapters_get_the_whole_queue() -> None:
    status = read("vllm", vllm(), speed=2)
    assert status.queue_length == 9
    assert [(model.name, model.queue_length, model.speed) for model in status.models] == [
        ('meta/Llama "3"', 9, 2),
        ("llama", 9, 2),
        ("sql-lora", 9, 2),
    ]


def test_vllm_models_with_labels_of_their_own_get_their_own_queues() -> None:
    metrics = 'vllm:num_requests_running{model_name="a"} 3\nvllm:num_requests_waiting{model_name="b"} 0\n'
    models = {"data": [{"id": "a"}, {"id": "b"}, {"id": "c"}]}
    status = read("vllm", vllm(**{"v1/models": (200, models), "metrics": (200, metrics)}))
    assert [model.queue_length for model in status.models] == [3, 0, 3]


@pytest.mark.parametrize("response", [(404, "Not Found"), (200, ""), (200, "<!doctype html><p>{hello}"), (501, "{}")])
def test_an_engine_without_metrics_is_up_with_an_empty_queue(response: tuple[int, str]) -> None:
    status = read("vllm", vllm(metrics=response))
    assert status.queue_length == 0
    assert len(status.models) == 3


def test_vllm_with_a_dead_engine_is_unreadable_though_it_lists_models() -> None:
    with pytest.raises(EngineUnreadable, match="/health answered 503"):
        read("vllm", vllm(health=(503, "")))


@pytest.mark.parametrize(("value", "counted"), [("NaN", 0), ("-4", 0), ("+Inf", 0), ("1e30", 10**9), ("2.0", 2)])
def test_absurd_values_of_metrics_are_ignored_or_limited(value: str, counted: int) -> None:
    responses = vllm(metrics=(200, f'vllm:num_requests_running{{model_name="m"}} {value}\n'))
    assert read("vllm", responses).queue_length == counted


@given(st.text(alphabet=string.printable, max_size=60))
def test_a_metrics_line_has_samples_or_is_unreadable(tail: str) -> None:
    response = EngineResponse(URL, 200, f"vllm:num_requests_running{tail}".encode())
    try:
        samples = response.samples("vllm:num_requests_running")
    except EngineUnreadable:
        return
    assert all(sample.name == "vllm:num_requests_running" and sample.value >= 0 for sample in samples)


@given(st.binary(max_size=200))
def test_any_body_is_read_or_unreadable(body: bytes) -> None:
    response = EngineResponse(URL, 200, body)
    response.samples("m")
    try:
        response.json()
    except EngineUnreadable as error:
        assert URL in str(error)  # noqa: PT017 - valid JSON is fine too


# llama.cpp, and local, which runs the same server


@pytest.mark.parametrize("kind", ["llamacpp", "local"])
@pytest.mark.parametrize(("state", "queue_length"), [("idle", 0), ("busy", 5), ("no_metrics", 1), ("bare", 0)])
def test_llamacpp_as_recorded(kind: str, state: str, queue_length: int) -> None:
    status = read(kind, recorded(state), speed=3)
    model = ModelStatus("smollm2-135m", "openai", 3, queue_length, slots=2)
    assert status == NodeStatus((model,), 3, queue_length)


def test_llamacpp_that_is_loading_is_unreadable() -> None:
    with pytest.raises(EngineUnreadable, match=r"503.*Loading model"):
        read("llamacpp", recorded("loading"))


def test_llamacpp_that_is_too_busy_for_its_metrics_is_busy_not_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "LOAD_TIMEOUT_S", 0.02)
    responses = recorded("busy")

    async def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            await asyncio.Event().wait()
        status, body = responses[request.url.path]
        return httpx.Response(status, text=body)

    async def run() -> NodeStatus:
        async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
            return await ADAPTERS["llamacpp"].read(http, URL, 1.0)

    assert asyncio.run(run()).queue_length == 1


# fastchat


def worker(**status: Any) -> Responses:
    return {"/worker_get_status": (200, {"model_names": ["a", "b"], "speed": 1, "queue_length": 3, **status})}


def test_fastchat_worker_has_one_queue_for_all_its_models() -> None:
    status = read("fastchat", worker(speed=2), speed=3)
    assert status == NodeStatus((ModelStatus("a", "fastchat", 6, 3), ModelStatus("b", "fastchat", 6, 3)), 6, 3)


@pytest.mark.parametrize(
    "status",
    [
        {"model_names": None},
        {"model_names": "a"},
        {"speed": 0},
        {"speed": -1},
        {"speed": "1"},
        {"speed": True},
        {"queue_length": -1},
        {"queue_length": None},
        {"queue_length": 10**10},
    ],
)
def test_fastchat_status_with_a_bad_field_names_it(status: dict[str, Any]) -> None:
    with pytest.raises(EngineUnreadable, match=next(iter(status))):
        read("fastchat", worker(**status))


def test_fastchat_speed_that_json_cannot_hold_is_unreadable() -> None:
    body = '{"model_names": ["a"], "speed": 1e400, "queue_length": 0}'
    with pytest.raises(EngineUnreadable):
        read("fastchat", {"/worker_get_status": (200, body)})


# simulated


def test_simulated_serves_each_model_in_both_families() -> None:
    status = read("simulated", vllm(simulated=(200, {"slots": 8})))
    assert {(model.name, model.api, model.slots) for model in status.models} == {
        (name, api, 8) for name in ('meta/Llama "3"', "llama", "sql-lora") for api in ("openai", "fastchat")
    }
    assert status.queue_length == 9


@pytest.mark.parametrize("page", [(404, ""), (200, []), (200, {}), (200, {"slots": "8"}), (200, {"slots": 0})])
def test_another_server_is_not_a_simulated_engine(page: tuple[int, Any]) -> None:
    with pytest.raises(EngineUnreadable, match="/simulated"):
        read("simulated", vllm(simulated=page))
