"""FastChat's programs and our nodes that go and come again. Its workers beat each second here."""

from __future__ import annotations

import httpx
import pytest

from hierarchy.uplink import registration
from tests.cluster import Cluster, wait_for_model
from tests.compat.conftest import OWN, Levels, ask, frames
from tests.compat.programs import Program, Programs, needs_fastchat
from tests.support import DEADLINE_S, eventually

pytestmark = needs_fastchat


@pytest.fixture(scope="module")
def levels(cluster: Cluster) -> Levels:
    return Levels(cluster)


def listed(url: str) -> list[str]:
    names: list[str] = ask(url, "/list_models")["models"]
    return sorted(names)


def last_frame(url: str, model: str) -> dict[str, object]:
    body = {"model": model, "prompt": "USER: a b ASSISTANT:", "echo": False}
    return frames(httpx.post(f"{url}/worker_generate_stream", json=body, timeout=DEADLINE_S))[-1]


def test_models_that_register_each_for_itself_at_one_address(levels: Levels, programs: Programs) -> None:
    names = ["one", "three", "two"]
    worker = programs.worker(levels.rack.url, *names, each=True)
    for node in levels.nodes:
        eventually(lambda node=node: listed(node.url) == names, "all of them")  # type: ignore[misc]
    assert [child.url for child in levels.rack.node.registry] == [worker.url]
    for name in names:
        assert last_frame(levels.root.url, name)["text"] == "you said a b"
        assert ask(levels.root.url, "/model_details", model=name) == {"context_length": 2048}
    levels.rack.node.registry.remove(worker.url)  # the beat of each model finds that its address is unknown, or is not
    eventually(lambda: listed(levels.root.url) == names, "all of them again")
    worker.kill()
    levels.rack.node.registry.remove(worker.url)


def test_a_worker_registers_with_a_node_that_was_started_anew(
    cluster: Cluster, levels: Levels, programs: Programs
) -> None:
    programs.worker(levels.rack.url, "vicuna")
    wait_for_model(levels.root.url, "vicuna")
    port = int(levels.rack.url.rpartition(":")[2])
    cluster.stop(levels.rack)
    levels.rack = cluster.node("rack", parents=(levels.site.url,), settings=OWN, port=port)
    wait_for_model(levels.root.url, "vicuna")
    assert last_frame(levels.root.url, "vicuna")["text"] == "you said a b"


def test_a_worker_that_was_killed_is_not_waited_for(cluster: Cluster, programs: Programs) -> None:
    """It is listed until it expires; whoever asks meanwhile gets the other one's answer, or is told at once."""
    levels = Levels(cluster)
    doomed, other = (programs.worker(levels.rack.url, "vicuna") for _ in range(2))
    wait_for_model(levels.root.url, "vicuna", 2)
    doomed.kill()
    for _ in range(6):
        assert last_frame(levels.root.url, "vicuna")["text"] == "you said a b"
    other.kill()
    assert last_frame(levels.root.url, "vicuna")["error_code"] == 50001


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastChat's controller expires its workers after 3 s here, not 90."""
    monkeypatch.setattr(registration, "PLAIN_INTERVAL_S", 0.5)


def test_fastchats_controller_is_told_what_changes_and_found_again(
    cluster: Cluster, programs: Programs, quick_beats: None
) -> None:
    controller = programs.controller()
    levels = Levels(cluster, controller.url)
    programs.worker(levels.rack.url, "vicuna")
    eventually(lambda: listed(controller.url) == ["vicuna"], "our root to register with it")
    second = programs.worker(levels.rack.url, "second")
    eventually(lambda: listed(controller.url) == ["second", "vicuna"], "the model that came")
    second.kill()
    levels.rack.node.registry.remove(second.url)
    eventually(lambda: listed(controller.url) == ["vicuna"], "the model that went")
    ask(controller.url, "/refresh_all_workers")  # which asks us
    assert listed(controller.url) == ["vicuna"]

    controller.kill()
    (tie,) = levels.root.node.uplinks
    eventually(lambda: not tie.registered, "our root to notice")
    controller = programs.controller(port_of(controller))
    eventually(lambda: listed(controller.url) == ["vicuna"], "our root to come again")
    assert last_frame(controller.url, "vicuna")["text"] == "you said a b"


def test_fastchats_controller_expires_others_and_not_us(
    cluster: Cluster, programs: Programs, quick_beats: None
) -> None:
    controller = programs.controller()
    levels = Levels(cluster, controller.url)
    programs.worker(levels.rack.url, "vicuna")
    eventually(lambda: listed(controller.url) == ["vicuna"], "our root to register with it")
    ghost = {"model_names": ["ghost"], "speed": 1, "queue_length": 0}
    message = {"worker_name": "http://127.0.0.1:9", "check_heart_beat": True, "worker_status": ghost}
    ask(controller.url, "/register_worker", **message)
    seen = [listed(controller.url)]
    assert "ghost" in seen[0]

    def expired() -> bool:
        seen.append(listed(controller.url))
        return "ghost" not in seen[-1]

    eventually(expired, "the one without beats to expire", 2 * DEADLINE_S)
    assert all("vicuna" in names for names in seen)


def port_of(program: Program) -> int:
    return int(program.url.rpartition(":")[2])
