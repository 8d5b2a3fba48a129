"""The adapter of the simulated engine."""

from __future__ import annotations

from typing import Any

import pytest

from hierarchy.errors import EngineUnreadable
from tests.engines.adapters.support import read, vllm


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
