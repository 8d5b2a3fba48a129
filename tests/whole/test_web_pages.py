"""A web page of a stranger, in the browser of somebody who reaches a node: real nodes on real sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.builders import worker
from tests.cluster import Cluster, Running, wait_for_model
from tests.security.keyed import Keys, bearer
from tests.support import eventually

EVIL = {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "content-type": "text/plain"}
CHAT = {"model": "simulated", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}


@pytest.fixture
def node(cluster: Cluster) -> Running:
    engine = cluster.engine()
    made = cluster.node("root", engines=(engine.url,))
    wait_for_model(made.url, "simulated")
    return made


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


POSTS: list[tuple[str, Any]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"model": "simulated", "prompt": "x"}),
    ("/worker_generate_stream", {"model": "simulated", "prompt": "x"}),
    ("/register_worker", worker("http://10.0.0.9:1")),
    ("/receive_heart_beat", {"worker_name": "http://10.0.0.9:1", "queue_length": 0}),
    ("/refresh_all_workers", {}),
    ("/get_worker_address", {"model": "simulated"}),
    ("/deregister_worker", {"node": "openai-1"}),
    ("/admin/drain", {"path": "openai-1"}),
]


@pytest.mark.parametrize(("path", "message"), POSTS)
def test_a_page_of_another_origin_drains_registers_and_asks_nothing(node: Running, path: str, message: Any) -> None:
    before = sorted(node.node.registry.children)
    for _ in range(2):  # the second head is one that the node knows
        assert code(httpx.post(node.url + path, json=message, headers=EVIL)) == (403, "foreign_origin")
    assert sorted(node.node.registry.children) == before
    assert not any(child.sent for child in node.node.registry)
    assert all(child.drain is None for child in node.node.registry)


def test_a_known_head_is_not_taken_for_that_of_a_page(node: Running) -> None:
    with httpx.Client(base_url=node.url) as http:
        for _ in range(3):
            assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
            assert code(http.post("/v1/chat/completions", json=CHAT, headers=EVIL)) == (403, "foreign_origin")


def test_a_name_that_was_made_to_point_here_reads_and_asks_nothing(node: Running) -> None:
    rebound = {"host": "evil.example:8000", "origin": "http://evil.example:8000"}
    for path in ("/v1/models", "/tree", "/metrics", "/"):
        assert code(httpx.get(node.url + path, headers=rebound)) == (403, "unknown_host"), path
    assert code(httpx.post(f"{node.url}/v1/chat/completions", json=CHAT, headers=rebound)) == (403, "unknown_host")
    assert httpx.get(f"{node.url}/health", headers=rebound).status_code == 200


def test_with_a_key_a_page_may_ask_but_never_register(cluster: Cluster, tmp_path: Path) -> None:
    """A page has no key that it was not given, so its Origin matters no more."""
    keys = Keys(tmp_path)
    engine = cluster.engine()
    root = cluster.node("root", engines=(engine.url,), settings=keys.settings())

    def ask(**key: str) -> httpx.Response:
        return httpx.post(f"{root.url}/v1/chat/completions", json=CHAT, headers=EVIL | key)

    eventually(lambda: ask(**bearer(keys.client)).status_code == 200, "an answer to a page with a key")
    assert code(ask()) == (401, "invalid_api_key")
    message = worker("http://10.0.0.9:1")
    assert code(httpx.post(f"{root.url}/register_worker", json=message, headers=EVIL)) == (403, "foreign_origin")
