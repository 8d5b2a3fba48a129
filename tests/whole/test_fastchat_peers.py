"""Simulated FastChat workers, which register themselves, and FastChat clients, which request addresses."""

from __future__ import annotations

import itertools
import json

import httpx

from hierarchy.config.models import Settings
from tests.cluster import QUICK, Cluster, wait_for_model
from tests.support import eventually


def frames(content: bytes) -> list[dict[str, object]]:
    return [json.loads(frame) for frame in content.split(b"\0") if frame]


def test_the_life_of_a_worker(cluster: Cluster) -> None:
    root = cluster.node("root")
    site = cluster.node("site", parents=(root.url,))
    worker = cluster.engine(models=("vicuna",), register=site.url, heart_beat_s=0.2)
    eventually(lambda: httpx.post(f"{root.url}/list_models").json() == {"models": ["vicuna"]}, "the root to list it")
    assert httpx.post(f"{site.url}/get_worker_address", json={"model": "vicuna"}).json() == {"address": worker.url}
    assert httpx.post(f"{root.url}/get_worker_address", json={"model": "vicuna"}).json() == {"address": site.url}
    assert httpx.post(f"{root.url}/get_worker_address", json={"model": "nope"}).json() == {"address": ""}
    body = {"model": "vicuna", "prompt": "hello", "max_new_tokens": 4}
    streamed = frames(httpx.post(f"{root.url}/worker_generate_stream", json=body).content)
    assert len(streamed) > 1
    assert all(frame["error_code"] == 0 for frame in streamed)
    texts = [str(frame["text"]) for frame in streamed]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))  # cumulative
    idle = {"model_names": ["vicuna"], "speed": 1.0, "queue_length": 0}
    eventually(lambda: httpx.post(f"{root.url}/worker_get_status").json() == idle, "the lease to end")
    child = site.node.registry.children[worker.url]
    seen = child.last_seen
    assert seen is not None
    eventually(lambda: (child.last_seen or 0) > seen, "its next heartbeat")


def test_a_worker_registers_again_if_the_node_does_not_know_it(cluster: Cluster) -> None:
    site = cluster.node("site")
    worker = cluster.engine(register=site.url, heart_beat_s=0.1)
    eventually(lambda: worker.url in site.node.registry.children, "the worker")
    site.node.registry.remove(worker.url)
    eventually(lambda: worker.url in site.node.registry.children, "the worker again")


def test_a_worker_that_registers_without_a_status_is_probed(cluster: Cluster) -> None:
    site = cluster.node("site")
    worker = cluster.engine(models=("one", "two"))
    message = {"worker_name": worker.url, "check_heart_beat": True, "worker_status": None}
    assert httpx.post(f"{site.url}/register_worker", json=message).json() is None
    eventually(lambda: httpx.post(f"{site.url}/list_models").json() == {"models": ["one", "two"]}, "its models")


def test_refreshing_never_empties_the_registry(cluster: Cluster) -> None:
    site = cluster.node("site")
    message = {
        "worker_name": "http://127.0.0.1:9",  # nothing listens there, so its status cannot be read
        "check_heart_beat": True,
        "worker_status": {"model_names": ["m"], "speed": 1, "queue_length": 0},
    }
    assert httpx.post(f"{site.url}/register_worker", json=message).status_code == 200
    for _ in range(3):
        assert httpx.post(f"{site.url}/refresh_all_workers").json() is None
        assert httpx.post(f"{site.url}/list_models").json() == {"models": ["m"]}


def test_a_node_can_return_its_own_address(cluster: Cluster) -> None:
    worker = cluster.engine()
    settings = Settings(**{**QUICK.model_dump(), "address": "self"})
    site = cluster.node("site", engines=(worker.url,), settings=settings)
    wait_for_model(site.url, "simulated")
    response = httpx.post(f"{site.url}/get_worker_address", json={"model": "simulated"})
    assert response.json() == {"address": site.url}
    body = {"model": "simulated", "prompt": "x", "max_new_tokens": 2}
    assert frames(httpx.post(f"{site.url}/worker_generate_stream", json=body).content)


def test_errors_on_fastchat_paths_are_frames_with_status_200(cluster: Cluster) -> None:
    site = cluster.node("site")
    for body, code in ((b'{"model": "nope"}', 50005), (b"{bad", 40001), (b'{"model": 1}', 40001)):
        response = httpx.post(f"{site.url}/worker_generate_stream", content=body)
        assert response.status_code == 200
        assert [frame["error_code"] for frame in frames(response.content)] == [code]
