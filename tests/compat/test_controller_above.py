"""FastChat's controller above a tree: the root is a worker to it, whose address it gives to clients."""

from __future__ import annotations

import json

import httpx
import pytest

from hierarchy.uplink import registration
from tests.cluster import Cluster
from tests.compat.conftest import Levels
from tests.compat.programs import Programs, needs_fastchat
from tests.support import eventually

pytestmark = needs_fastchat


def post(controller: str, path: str, **body: object) -> httpx.Response:
    return httpx.post(controller + path, json=body, timeout=20.0)


def test_the_root_is_a_worker_of_fastchats_controller(
    cluster: Cluster, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "FASTCHAT_INTERVAL_S", 0.5)
    controller = programs.controller()
    levels = Levels(cluster, controller.url)
    programs.worker(levels.rack.url, "vicuna")

    def listed() -> bool:
        return bool(post(controller.url, "/list_models").json() == {"models": ["vicuna"]})

    eventually(listed, "the controller to list the model of the lowest level")
    address = post(controller.url, "/get_worker_address", model="vicuna").json()["address"]
    assert address == levels.root.url
    assert post(address, "/worker_get_status").json() == {"model_names": ["vicuna"], "speed": 1, "queue_length": 0}
    response = post(controller.url, "/worker_generate_stream", model="vicuna", prompt="USER: a ASSISTANT:", echo=False)
    texts = [json.loads(frame)["text"] for frame in response.content.split(b"\0") if frame]
    assert texts == ["you", "you said", "you said a"]
    output = programs.test_message(controller.url, "vicuna", "red green")
    assert f"worker_addr: {levels.root.url}" in output
    assert "you said red green" in output

    controller.kill()
    programs.controller(int(controller.url.rpartition(":")[2]))
    eventually(listed, "the root to register again with the restarted controller")
