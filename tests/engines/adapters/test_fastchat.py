"""FastChat's workers: the status that they report."""

from __future__ import annotations

from typing import Any

import pytest

from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.engines.adapters.support import Responses, read


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
