"""llama.cpp's server, and kind `local`, which runs the same server: responses recorded from it."""

from __future__ import annotations

import pytest

from hierarchy.engines.adapters import llamacpp as adapter
from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.engines.adapters.support import llamacpp, read


@pytest.mark.parametrize("kind", ["llamacpp", "local"])
@pytest.mark.parametrize(("state", "queue_length"), [("idle", 0), ("busy", 5), ("no_metrics", 1), ("bare", 0)])
def test_llamacpp_as_recorded(kind: str, state: str, queue_length: int) -> None:
    status = read(kind, llamacpp(state), speed=3)
    model = ModelStatus("smollm2-135m", "openai", 3, queue_length, slots=2)
    assert status == NodeStatus((model,), 3, queue_length)


def test_llamacpp_that_is_loading_is_unreadable() -> None:
    with pytest.raises(EngineUnreadable, match=r"503.*Loading model"):
        read("llamacpp", llamacpp("loading"))


def test_llamacpp_that_is_too_busy_for_its_metrics_is_busy_not_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "LOAD_TIMEOUT_S", 0.02)
    assert read("llamacpp", llamacpp("busy"), hanging="/metrics").queue_length == 1
