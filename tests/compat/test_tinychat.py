"""TinyChat's worker: two paths, an echoed prompt, and heartbeats from inside its handlers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cluster import wait_for_model
from tests.compat.conftest import Levels, frames
from tests.compat.tinychat import TinyChatWorker
from tests.support import DEADLINE_S, eventually


@pytest.fixture
def worker(levels: Levels) -> Iterator[TinyChatWorker]:
    with TinyChatWorker(levels.rack.url, "llava").running() as worker:
        wait_for_model(levels.root.url, "llava")
        yield worker


def generate(levels: Levels, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "llava", "prompt": "Hi", **fields}
    return frames(httpx.post(f"{levels.root.url}/worker_generate_stream", json=body, timeout=DEADLINE_S))


def test_its_stream_passes_unchanged(levels: Levels, worker: TinyChatWorker) -> None:
    texts = [frame["text"] for frame in generate(levels)]
    assert texts == ["Hi one", "Hi one two", "Hi one two three"]


def test_the_response_to_a_heartbeat_does_not_wait_for_the_worker(levels: Levels, worker: TinyChatWorker) -> None:
    """A heartbeat blocks the worker's event loop, so a node that calls the worker before it responds would deadlock."""
    generate(levels)
    eventually(lambda: len(worker.heartbeats) >= 2, "a heartbeat before the response and one after it")
    assert set(worker.heartbeats) == {True}
    levels.rack.node.registry.remove(worker.url)  # the worker registers again, from inside its handler
    worker.send_heart_beat()
    assert worker.heartbeats[-1] is False
    wait_for_model(levels.root.url, "llava")
    assert generate(levels)[-1]["text"] == "Hi one two three"


def test_its_queue_is_known_while_it_serves(levels: Levels, worker: TinyChatWorker) -> None:
    child = levels.rack.node.registry.children[worker.url]
    worker.hold.clear()
    body = {"model": "llava", "prompt": "Hi"}
    with httpx.stream("POST", f"{levels.root.url}/worker_generate_stream", json=body) as response:
        stream = response.iter_raw()  # keeps the connection open
        assert b"Hi one" in next(stream)
        eventually(lambda: child.load(("llava", "fastchat")) == 1, "the reported request")
        worker.hold.set()
    eventually(lambda: child.load(("llava", "fastchat")) == 0, "the heartbeat after the request")


def test_openais_clients_get_completions_without_the_echo(levels: Levels, worker: TinyChatWorker) -> None:
    body = {"model": "llava", "prompt": "Hi"}
    url = f"{levels.root.url}/v1/completions"
    assert httpx.post(url, json=body).json()["choices"][0]["text"] == " one two three"
    assert httpx.post(url, json=body | {"echo": True}).json()["choices"][0]["text"] == "Hi one two three"
    assert httpx.post(url, json=body | {"stop": " two"}).json()["choices"][0]["text"] == " one"
    chat = {"model": "llava", "messages": [{"role": "user", "content": "Hi"}]}
    response = httpx.post(f"{levels.root.url}/v1/chat/completions", json=chat)
    assert (response.status_code, "/v1/completions" in response.json()["error"]["message"]) == (400, True)


def test_its_clients_get_fastchats_error_codes(levels: Levels) -> None:
    """TinyChat's controller sends 2 (no worker) and 3 (timeout), but clients only check whether the code is 0."""
    response = httpx.post(f"{levels.root.url}/worker_generate_stream", json={"model": "unknown", "prompt": "x"})
    assert [frame["error_code"] for frame in frames(response)] == [50005]


def test_it_registers_before_it_listens(levels: Levels) -> None:
    worker = TinyChatWorker(levels.rack.url, "early")
    worker.register()
    assert "early" in httpx.post(f"{levels.rack.url}/list_models").json()["models"]
    wait_for_model(levels.root.url, "early")
    with worker.running():
        assert generate(levels, model="early")[-1]["text"] == "Hi one two three"


def test_a_direct_request_does_not_wait_while_the_worker_registers_again(
    levels: Levels, worker: TinyChatWorker
) -> None:
    """The handler of the request sends a heartbeat and registers again, which blocks the worker's event loop. A node
    that requested its status before responding to that would deadlock.
    """
    registry = levels.rack.node.registry
    for _ in range(3):
        registry.remove(worker.url)
        response = httpx.post(f"{worker.url}/worker_generate_stream", json={"prompt": "Hi"}, timeout=2.0)
        assert response.content.endswith(b"\0")
        assert worker.url in registry.children
    assert False in worker.heartbeats


@pytest.mark.parametrize("code", [1, 2, 3])
def test_its_errors_pass_unchanged(levels: Levels, worker: TinyChatWorker, code: int) -> None:
    """1 is from the worker; 2 and 3 are from TinyChat's controller, if it is registered here as a worker."""
    worker.code = code
    assert [frame["error_code"] for frame in generate(levels)] == [0, code]
