"""Engines that were put to sleep, and woken up."""

from __future__ import annotations

from typing import Any

import httpx

from tests.cluster import Cluster, Running, chat, wait_for_model
from tests.support import eventually


def state_of(node: Running, engine: str) -> str:
    return str(httpx.get(f"{node.url}/tree").json()["children"][engine]["state"])


def send(engine: Running, path: str, **params: Any) -> None:
    httpx.post(engine.url + path, params=params).raise_for_status()


def test_a_sleeping_engine_gets_nothing_while_another_serves_its_model(cluster: Cluster) -> None:
    one, two = cluster.engine(models=("m",)), cluster.engine(models=("m",))
    node = cluster.node("n", engines=(one.url, two.url))
    wait_for_model(node.url, "m", 2)
    send(one, "/sleep", level=1)
    eventually(lambda: state_of(node, "n-1") == "asleep")
    assert {chat(node.url, "m").headers["x-hierarchy-path"] for _ in range(8)} == {"n-2"}
    send(one, "/wake_up")
    eventually(lambda: state_of(node, "n-1") == "up")


def test_the_model_of_the_only_engine_is_unavailable_while_it_sleeps_and_not_unknown(cluster: Cluster) -> None:
    engine = cluster.engine(models=("m",))
    root = cluster.node("root")
    site = cluster.node("site", parents=(root.url,), engines=(engine.url,))
    wait_for_model(root.url, "m")
    send(engine, "/sleep", level=2)
    eventually(lambda: state_of(site, "site-1") == "asleep")
    for node in (site, root):
        eventually(lambda node=node: chat(node.url, "m").status_code == 503)  # type: ignore[misc]
        assert "retry-after" in chat(node.url, "m").headers
    send(engine, "/wake_up")
    eventually(lambda: chat(root.url, "m").status_code == 200)
