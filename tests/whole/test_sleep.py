"""Engines that were put to sleep, and woken up; and those that load their models when requests come."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from hierarchy.config.models import EngineConfig, NodeConfig
from tests.cluster import QUICK, Cluster, Running, chat, models_at, wait_for_model
from tests.support import eventually, free_port

#: an engine of few lines, which starts at once
SERVER = """
import http.server, json, sys

class Engine(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send({"object": "list", "data": [{"id": "m"}]})
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send({"object": "chat.completion", "choices": []})
    def send(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Engine).serve_forever()
"""


def state_of(node: Running, engine: str) -> str:
    return str(httpx.get(f"{node.url}/tree").json()["children"][engine]["state"])


def send(engine: Running, path: str, **params: Any) -> None:
    httpx.post(engine.url + path, params=params).raise_for_status()


def count(engine: Running, field: str) -> Any:
    return httpx.get(f"{engine.url}/simulated").json()[field]


def chats(node: Running, *models: str) -> list[httpx.Response]:
    """So many requests at once."""

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=30) as client:
            url = f"{node.url}/v1/chat/completions"
            bodies = [{"model": name, "messages": [{"role": "user", "content": "hi"}]} for name in models]
            return await asyncio.gather(*(client.post(url, json=body) for body in bodies))

    return asyncio.run(run())


def is_cold(node: Running, model: str) -> bool:
    rows = httpx.get(f"{node.url}/tree").json()["models"]
    return any(row.get("load_s", 0) > 0 for row in rows if row["name"] == model)


def test_a_sleeping_engine_gets_nothing_while_another_serves_its_model(cluster: Cluster) -> None:
    one, two = cluster.engine(models=("m",)), cluster.engine(models=("m",))
    node = cluster.node("n", engines=(one.url, two.url))
    wait_for_model(node.url, "m", 2)
    send(one, "/sleep", level=1)
    eventually(lambda: state_of(node, "n-1") == "asleep")
    assert {chat(node.url, "m").headers["x-hierarchy-path"] for _ in range(8)} == {"n-2"}
    assert count(one, "sleeping")
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
    assert count(engine, "wakes") == 0  # its weights are gone
    send(engine, "/wake_up")
    eventually(lambda: chat(root.url, "m").status_code == 200)


def test_requests_at_the_root_wake_up_an_engine_two_levels_below_once(cluster: Cluster) -> None:
    engine = cluster.engine(models=("m",), asleep=True, load_s=0.2)
    root = cluster.node("root")
    site = cluster.node("site", parents=(root.url,), engines=(engine.url,))
    eventually(lambda: "m" in models_at(root.url))
    assert state_of(site, "site-1") == "asleep"
    assert is_cold(root, "m")
    responses = chats(root, *["m"] * 20)
    assert {response.status_code for response in responses} == {200}
    assert {response.headers["x-hierarchy-path"] for response in responses} == {"site/site-1"}
    assert count(engine, "wakes") == 1
    eventually(lambda: not is_cold(root, "m"))
    metrics = httpx.get(f"{site.url}/metrics").text
    assert 'hierarchy_wakes_total{child="site-1",outcome="ok"} 1.0' in metrics


def test_an_engine_that_does_not_wake_up_is_503_that_names_it(cluster: Cluster) -> None:
    engine = cluster.engine(models=("m",), asleep=True)
    httpx.post(f"{engine.url}/simulated/faults", json={"on": "wake", "status": 500}).raise_for_status()
    node = cluster.node("n", engines=(engine.url,))
    eventually(lambda: "m" in models_at(node.url))
    response = chat(node.url, "m")
    assert response.status_code == 503
    reason = "model 'm' is not loaded, and n-1 could not be woken up: POST /wake_up answered 500"
    assert response.json()["error"]["message"] == reason
    again = chat(node.url, "m")
    assert again.json()["error"]["message"].startswith(reason)
    assert 1 <= int(again.headers["retry-after"]) <= 30


def test_a_command_is_run_for_the_first_request_and_ends_with_the_node(cluster: Cluster) -> None:
    port = free_port()
    command = (sys.executable, "-S", "-c", SERVER, str(port))
    engine = EngineConfig(name="e", kind="openai", url=f"http://127.0.0.1:{port}", models={"m": "m"}, command=command)
    config = NodeConfig(
        name="n", listen=(("127.0.0.1", 0),), advertise="http://127.0.0.1:0", engines=(engine,), settings=QUICK
    )
    node = cluster.serve(config)
    eventually(lambda: "m" in models_at(node.url))
    assert state_of(node, "e") == "asleep"
    assert node.node.engine_manager.processes == []
    assert {response.status_code for response in chats(node, *["m"] * 5)} == {200}
    (process,) = node.node.engine_manager.processes
    assert process.starts == 1
    pid = process.pid
    cluster.stop(node)
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/v1/models")


@pytest.mark.parametrize(("role", "kind"), [("router", "llamacpp"), ("ollama", "ollama")])
def test_two_models_settle_on_two_engines_with_room_for_one_each(cluster: Cluster, role: str, kind: str) -> None:
    engines = [cluster.engine(models=("a", "b"), role=role, load_s=0.1) for _ in range(2)]
    node = cluster.node("n", engines=tuple(engine.url for engine in engines), kind=kind)
    wait_for_model(node.url, "a", 2)
    for _ in range(6):
        assert {response.status_code for response in chats(node, "a", "b", "a", "b")} == {200}
    assert sorted(count(engine, "loaded") for engine in engines) == [["a"], ["b"]]
    assert sum(count(engine, "loads") for engine in engines) == 2
