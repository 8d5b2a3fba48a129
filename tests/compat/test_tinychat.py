"""TinyChat's dialect: two paths, an echoed prompt, beats from inside its handlers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cluster import Cluster, wait_for_model
from tests.compat.conftest import Levels
from tests.compat.tinychat import TinyChatWorker
from tests.support import DEADLINE_S, eventually


@pytest.fixture(scope="module")
def levels(cluster: Cluster) -> Levels:
    return Levels(cluster)


@pytest.fixture
def worker(levels: Levels) -> Iterator[TinyChatWorker]:
    with TinyChatWorker(levels.rack.url, "llava").running() as worker:
        wait_for_model(levels.root.url, "llava")
        yield worker


def generate(levels: Levels, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "llava", "prompt": "Hi", **fields}
    answer = httpx.post(f"{levels.root.url}/worker_generate_stream", json=body, timeout=DEADLINE_S)
    assert answer.status_code == 200
    return [json.loads(frame) for frame in answer.content.split(b"\0") if frame]


def test_its_stream_passes_as_it_is(levels: Levels, worker: TinyChatWorker) -> None:
    texts = [frame["text"] for frame in generate(levels)]
    assert texts == ["Hi one", "Hi one two", "Hi one two three"]


def test_a_beat_waits_for_nothing_of_the_same_worker(levels: Levels, worker: TinyChatWorker) -> None:
    """Its beats hold up its loop: a node that asked it something before it answers them would wait for itself."""
    generate(levels)
    eventually(lambda: len(worker.beats) >= 2, "one beat before the answer and one behind it")
    assert set(worker.beats) == {True}
    levels.rack.node.registry.remove(worker.url)  # now the beat is answered with: register again, from in there
    worker.send_heart_beat()
    assert worker.beats[-1] is False
    wait_for_model(levels.root.url, "llava")
    assert generate(levels)[-1]["text"] == "Hi one two three"


def test_its_queue_shows_while_it_serves(levels: Levels, worker: TinyChatWorker) -> None:
    child = levels.rack.node.registry.children[worker.url]
    worker.hold.clear()
    body = {"model": "llava", "prompt": "Hi"}
    with httpx.stream("POST", f"{levels.root.url}/worker_generate_stream", json=body) as answer:
        stream = answer.iter_raw()  # held: the connection closes with it
        assert b"Hi one" in next(stream)
        eventually(lambda: child.load(("llava", "fastchat")) == 1, "the request that it reported")
        worker.hold.set()
    eventually(lambda: child.load(("llava", "fastchat")) == 0, "the beat that ends it")


def test_openais_clients_get_completions_without_the_echo(levels: Levels, worker: TinyChatWorker) -> None:
    body = {"model": "llava", "prompt": "Hi"}
    url = f"{levels.root.url}/v1/completions"
    assert httpx.post(url, json=body).json()["choices"][0]["text"] == " one two three"
    assert httpx.post(url, json=body | {"echo": True}).json()["choices"][0]["text"] == "Hi one two three"
    assert httpx.post(url, json=body | {"stop": " two"}).json()["choices"][0]["text"] == " one"
    chat = {"model": "llava", "messages": [{"role": "user", "content": "Hi"}]}
    answer = httpx.post(f"{levels.root.url}/v1/chat/completions", json=chat)
    assert (answer.status_code, "/v1/completions" in answer.json()["error"]["message"]) == (400, True)


def test_its_clients_know_two_codes_and_any_other_is_an_error_too(levels: Levels) -> None:
    """Its own controller says 2 for no worker and 3 for a timeout; its clients ask only whether a code is 0."""
    answer = httpx.post(f"{levels.root.url}/worker_generate_stream", json={"model": "nobody", "prompt": "x"})
    frames = [json.loads(frame) for frame in answer.content.split(b"\0") if frame]
    assert [frame["error_code"] for frame in frames] == [50005]


def test_it_registers_before_it_listens(levels: Levels) -> None:
    worker = TinyChatWorker(levels.rack.url, "early")
    worker.register()
    assert "early" in httpx.post(f"{levels.rack.url}/list_models").json()["models"]
    wait_for_model(levels.root.url, "early")
    with worker.running():
        assert generate(levels, model="early")[-1]["text"] == "Hi one two three"


def test_whoever_has_its_address_does_not_wait_while_it_registers_again(levels: Levels, worker: TinyChatWorker) -> None:
    """In the handler of such a request it beats, learns that it is forgotten, and registers again, with its loop at a
    stand. Who asked it for its status before answering that would wait for it as it waits for the answer.
    """
    registry = levels.rack.node.registry
    for _ in range(3):
        registry.remove(worker.url)
        answer = httpx.post(f"{worker.url}/worker_generate_stream", json={"prompt": "Hi"}, timeout=2.0)
        assert answer.content.endswith(b"\0")
        assert worker.url in registry.children
    assert False in worker.beats


@pytest.mark.parametrize("code", [1, 2, 3])
def test_its_own_errors_pass_as_they_are(levels: Levels, worker: TinyChatWorker, code: int) -> None:
    """1 is the worker's; 2 and 3 are its controller's, where that stands here as a worker."""
    worker.code = code
    assert [frame["error_code"] for frame in generate(levels)] == [0, code]
