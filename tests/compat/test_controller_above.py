"""FastChat's controller above a tree: the root is a worker to it, whose address it gives to clients."""

from __future__ import annotations

import httpx
import pytest

from hierarchy.uplink import registration
from tests.cluster import Cluster
from tests.compat.conftest import Levels, frames, post
from tests.compat.programs import Programs, needs_fastchat
from tests.support import DEADLINE_S, eventually

pytestmark = needs_fastchat


def test_the_root_is_a_worker_of_fastchats_controller(
    cluster: Cluster, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "FASTCHAT_INTERVAL_S", 0.5)
    controller = programs.controller()
    levels = Levels(cluster, controller.url)
    programs.worker(levels.rack.url, "vicuna")

    def listed() -> bool:
        return bool(post(controller.url, "/list_models") == {"models": ["vicuna"]})

    eventually(listed, "the controller to list the model of the lowest level")
    address = post(controller.url, "/get_worker_address", model="vicuna")["address"]
    assert address == levels.root.url
    assert post(address, "/worker_get_status") == {"model_names": ["vicuna"], "speed": 1, "queue_length": 0}
    body = {"model": "vicuna", "prompt": "USER: a ASSISTANT:", "echo": False}
    stream = frames(httpx.post(f"{controller.url}/worker_generate_stream", json=body, timeout=DEADLINE_S))
    assert [frame["text"] for frame in stream] == ["you", "you said", "you said a"]
    output = programs.test_message(controller.url, "vicuna", "red green")
    assert f"worker_addr: {levels.root.url}" in output
    assert "you said red green" in output

    controller.kill()
    programs.controller(controller.port)
    eventually(listed, "the root to register again with the restarted controller")
