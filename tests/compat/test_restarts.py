"""Restarts of FastChat's programs and of nodes. The workers send a heartbeat every second here."""

from __future__ import annotations

import httpx
import pytest

from hierarchy.uplink import registration
from tests.cluster import Cluster, wait_for_model
from tests.compat.conftest import OWN_ADDRESS, Levels, frames, post
from tests.compat.programs import Program, Programs, needs_fastchat
from tests.support import DEADLINE_S, eventually

pytestmark = needs_fastchat


def listed(url: str) -> list[str]:
    names: list[str] = post(url, "/list_models")["models"]
    return sorted(names)


def last_frame(url: str, model: str) -> dict[str, object]:
    body = {"model": model, "prompt": "USER: a b ASSISTANT:", "echo": False}
    return frames(httpx.post(f"{url}/worker_generate_stream", json=body, timeout=DEADLINE_S))[-1]


def test_models_may_register_separately_with_one_address(levels: Levels, programs: Programs) -> None:
    names = ["one", "three", "two"]
    worker = programs.worker(levels.rack.url, *names, each=True)
    for node in levels.nodes:
        eventually(lambda node=node: listed(node.url) == names, "all models")  # type: ignore[misc]
    assert [child.url for child in levels.rack.node.registry] == [worker.url]
    for name in names:
        assert last_frame(levels.root.url, name)["text"] == "you said a b"
        assert post(levels.root.url, "/model_details", model=name) == {"context_length": 2048}
    levels.rack.node.registry.remove(worker.url)  # the first heartbeat finds it unknown, the others may not
    eventually(lambda: listed(levels.root.url) == names, "all models again")
    worker.kill()
    levels.rack.node.registry.remove(worker.url)


def test_a_worker_registers_again_with_a_restarted_node(cluster: Cluster, levels: Levels, programs: Programs) -> None:
    programs.worker(levels.rack.url, "vicuna")
    wait_for_model(levels.root.url, "vicuna")
    port = levels.rack.port
    cluster.stop(levels.rack)
    levels.rack = cluster.node("rack", parents=(levels.site.url,), settings=OWN_ADDRESS, port=port)
    wait_for_model(levels.root.url, "vicuna")
    assert last_frame(levels.root.url, "vicuna")["text"] == "you said a b"


def test_requests_do_not_wait_for_a_killed_worker(cluster: Cluster, programs: Programs) -> None:
    """It is listed until it expires. Until then requests go to the other worker, or fail at once."""
    levels = Levels(cluster)
    doomed, other = (programs.worker(levels.rack.url, "vicuna") for _ in range(2))
    wait_for_model(levels.root.url, "vicuna", 2)
    doomed.kill()
    for _ in range(6):
        assert last_frame(levels.root.url, "vicuna")["text"] == "you said a b"
    other.kill()
    assert last_frame(levels.root.url, "vicuna")["error_code"] == 50001


@pytest.fixture
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastChat's controller expires workers after 3 s here, instead of 90."""
    monkeypatch.setattr(registration, "FASTCHAT_INTERVAL_S", 0.5)


def below_controller(cluster: Cluster, programs: Programs) -> tuple[Program, Levels]:
    """FastChat's controller, and three levels with one worker below it."""
    controller = programs.controller()
    levels = Levels(cluster, controller.url)
    programs.worker(levels.rack.url, "vicuna")
    eventually(lambda: listed(controller.url) == ["vicuna"], "the root to register with it")
    return controller, levels


def test_fastchats_controller_gets_changes_and_is_found_after_a_restart(
    cluster: Cluster, programs: Programs, short_intervals: None
) -> None:
    controller, levels = below_controller(cluster, programs)
    second = programs.worker(levels.rack.url, "second")
    eventually(lambda: listed(controller.url) == ["second", "vicuna"], "the added model")
    second.kill()
    levels.rack.node.registry.remove(second.url)
    eventually(lambda: listed(controller.url) == ["vicuna"], "the removed model to disappear")
    post(controller.url, "/refresh_all_workers")  # which calls the root
    assert listed(controller.url) == ["vicuna"]

    controller.kill()
    (uplink,) = levels.root.node.uplinks
    eventually(lambda: not uplink.registered, "the root to notice")
    controller = programs.controller(controller.port)
    eventually(lambda: listed(controller.url) == ["vicuna"], "the root to register again")
    assert last_frame(controller.url, "vicuna")["text"] == "you said a b"


def test_fastchats_controller_expires_other_workers_but_not_the_root(
    cluster: Cluster, programs: Programs, short_intervals: None
) -> None:
    controller, _ = below_controller(cluster, programs)
    ghost = {"model_names": ["ghost"], "speed": 1, "queue_length": 0}
    message = {"worker_name": "http://127.0.0.1:9", "check_heart_beat": True, "worker_status": ghost}
    post(controller.url, "/register_worker", **message)
    seen = [listed(controller.url)]
    assert "ghost" in seen[0]

    def expired() -> bool:
        seen.append(listed(controller.url))
        return "ghost" not in seen[-1]

    eventually(expired, "the worker without heartbeats to expire", 2 * DEADLINE_S)
    assert all("vicuna" in names for names in seen)
