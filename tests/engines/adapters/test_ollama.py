"""Ollama: which servers are recognised as one."""

from __future__ import annotations

from typing import Any

import pytest

from hierarchy.errors import EngineUnreadable
from tests.engines.adapters.support import page, read


@pytest.mark.parametrize("version", [(404, ""), (200, []), (200, {"version": 3}), (200, "Ollama is running")])
def test_ollama_is_recognised_by_its_version(version: tuple[int, Any]) -> None:
    with pytest.raises(EngineUnreadable, match="/api/version"):
        read("ollama", {"/api/version": version, "/v1/models": page("ollama_models.json")})
