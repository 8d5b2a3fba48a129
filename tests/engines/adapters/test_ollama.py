"""Ollama: which servers are recognised as one."""

from __future__ import annotations

from typing import Any

import pytest

from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import USUAL_LOAD_S
from tests.engines.adapters.support import Responses, page, read


@pytest.mark.parametrize("version", [(404, ""), (200, []), (200, {"version": 3}), (200, "Ollama is running")])
def test_ollama_is_recognised_by_its_version(version: tuple[int, Any]) -> None:
    with pytest.raises(EngineUnreadable, match="/api/version"):
        read("ollama", {"/api/version": version, "/v1/models": page("ollama_models.json")})


OLLAMA: Responses = {
    "/api/version": (200, {"version": "0.12.6"}),
    "/v1/models": page("ollama_models.json"),
    "/api/ps": page("ollama_ps.json"),
    "/api/tags": page("ollama_tags.json"),
}


def loads(responses: Responses) -> dict[str, float]:
    return {model.name: model.load_s for model in read("ollama", responses).models}


def test_ollama_tells_which_models_are_loaded() -> None:
    assert loads(OLLAMA) == {"gemma3:latest": USUAL_LOAD_S, "llama3.2:1b": 0.0}


def test_models_of_the_cloud_need_not_be_loaded() -> None:
    listed = {"data": [{"id": "gemma3:latest"}, {"id": "gpt-oss:120b-cloud"}]}
    assert loads({**OLLAMA, "/v1/models": (200, listed)}) == {"gemma3:latest": USUAL_LOAD_S, "gpt-oss:120b-cloud": 0.0}


@pytest.mark.parametrize("nothing", [{"models": []}, {"models": None}])
def test_ollama_that_has_just_started_has_nothing_loaded(nothing: object) -> None:
    assert set(loads({**OLLAMA, "/api/ps": (200, nothing)}).values()) == {USUAL_LOAD_S}


@pytest.mark.parametrize("ps", [(404, ""), (200, []), (200, {"error": "x"}), (200, {"models": "x"})])
def test_ollama_of_a_release_that_does_not_tell_has_all_loaded(ps: tuple[int, Any]) -> None:
    assert set(loads({**OLLAMA, "/api/ps": ps}).values()) == {0.0}
