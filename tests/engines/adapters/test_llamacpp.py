"""llama.cpp's server, and kind `local`, which runs the same server: responses recorded from it."""

from __future__ import annotations

import asyncio

import pytest

from hierarchy.engines.adapters import llamacpp as adapter
from hierarchy.engines.kinds import ADAPTERS
from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import USUAL_LOAD_S, ModelStatus, NodeStatus
from tests.engines.adapters.support import Answers, llamacpp, read


@pytest.mark.parametrize("kind", ["llamacpp", "local"])
@pytest.mark.parametrize(("state", "queue_length"), [("idle", 0), ("busy", 5), ("no_metrics", 1), ("bare", 0)])
def test_llamacpp_as_recorded(kind: str, state: str, queue_length: int) -> None:
    status = read(kind, llamacpp(state), speed=3)
    model = ModelStatus("smollm2-135m", "openai", 3, queue_length, slots=2)
    counts = {"idle": (0.0, 0.0), "busy": (0.0, 74.0)}
    assert status == NodeStatus((model,), 3, queue_length, prompt_tokens={"": counts[state]} if state in counts else {})


def test_llamacpp_counts_cached_tokens_beside_those_that_it_reads() -> None:
    text = f"# TYPE {adapter.CACHED} counter\n{adapter.CACHED} 30\n{adapter.READ} 10\n{adapter.RUNNING} 0\n"
    assert read("llamacpp", llamacpp("idle") | {"/metrics": (200, text)}).prompt_tokens == {"": (30.0, 40.0)}
    older = f"{adapter.READ} 10\n{adapter.RUNNING} 0\n"
    assert read("llamacpp", llamacpp("idle") | {"/metrics": (200, older)}).prompt_tokens == {}


def test_llamacpp_that_is_loading_is_unreadable() -> None:
    with pytest.raises(EngineUnreadable, match=r"503.*Loading model"):
        read("llamacpp", llamacpp("loading"))


def test_llamacpp_that_is_too_busy_for_its_metrics_is_busy_not_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "LOAD_TIMEOUT_S", 0.02)
    assert read("llamacpp", llamacpp("busy"), hanging="/metrics").queue_length == 1


def test_llamacpp_that_sleeps_when_idle_loads_its_model_again_and_is_not_woken_up_by_probes() -> None:
    engine = Answers(llamacpp("sleeping"))
    status = asyncio.run(ADAPTERS["llamacpp"].read(engine, 1.0))
    assert [(model.name, model.slots, model.load_s) for model in status.models] == [("smollm2-135m", 2, USUAL_LOAD_S)]
    assert not status.asleep
    assert "/slots" not in engine.asked


def test_a_router_tells_which_of_its_models_are_loaded() -> None:
    engine = Answers(llamacpp("router"))
    status = asyncio.run(ADAPTERS["llamacpp"].read(engine, 2.0))
    assert [(model.name, model.queue_length, model.slots, model.load_s) for model in status.models] == [
        ("ggml-org/gemma-3-4b-it-GGUF:Q4_K_M", 3, 4, 0.0),
        ("qwen", 0, 0, USUAL_LOAD_S),
        ("dozing", 0, 0, USUAL_LOAD_S),
        ("coming", 1, 0, USUAL_LOAD_S),
        ("failed", 0, 0, USUAL_LOAD_S),
    ]
    assert (status.speed, status.queue_length) == (2.0, 4)
    loads = [path for path in engine.asked if "model=" in path and "autoload=false" not in path]
    assert loads == []  # a probe loads nothing


def test_a_router_that_loads_nothing_by_itself_serves_what_is_loaded() -> None:
    responses = llamacpp("router")
    responses["/props"] = (200, {"role": "router", "models_autoload": False})
    names = read("llamacpp", responses).model_names
    assert names == ["dozing", "ggml-org/gemma-3-4b-it-GGUF:Q4_K_M"]


@pytest.mark.parametrize("status", [None, "loaded", {"value": 3}, {}, []])
def test_an_entry_of_a_router_without_a_state_is_left_out(status: object) -> None:
    responses = llamacpp("router")
    responses["/v1/models"] = (
        200,
        {"data": [{"id": "odd", "status": status}, {"id": "m", "status": {"value": "loaded"}}]},
    )
    assert read("llamacpp", responses).model_names == ["m"]
