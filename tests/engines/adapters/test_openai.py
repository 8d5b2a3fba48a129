"""Engines of which only the OpenAI API is known."""

from __future__ import annotations

import pytest

from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.engines.adapters.support import read


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
