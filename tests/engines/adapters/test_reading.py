"""What adapters share: reading a response, and selecting models."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.engines.adapters.reading import EngineResponse, select_models
from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.engines.adapters.support import URL

LISTED = NodeStatus((ModelStatus("a", queue_length=1), ModelStatus("b", "fastchat"), ModelStatus("b")), 2.0, 3)


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
