"""Whatever goes wrong, a client reads no address of an engine or worker: not in a body, not in a header field.

The engines are on 127.0.0.2, so that this is what is looked for.
"""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from hierarchy.config.models import EngineConfig, NodeConfig
from tests.cluster import QUICK, Cluster, Running, wait_for_model
from tests.support import DEADLINE_S, eventually

HOST = "127.0.0.2"
JSON = b"content-type: application/json\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
RESET = b""  # close with RST
#: what the engine does with a request: bytes and then the connection's end
FAULTS: dict[str, list[bytes]] = {
    "closes": [],
    "resets": [RESET],
    "no HTTP": [b"SSH-2.0-x\r\n"],
    "a head that is cut": [OK + b"content-le"],
    "two lengths": [OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab"],
    "a body that is cut": [OK + JSON + b'content-length: 100\r\n\r\n{"a":'],
    "a stream that is cut": [
        OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: {}\n\r\n"
    ],
    "chunks that are none": [OK + JSON + b"transfer-encoding: chunked\r\n\r\nzz\r\n"],
    "a coding that is none": [OK + JSON + b"content-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc"],
    "HTML": [OK + b"content-type: text/html\r\ncontent-length: 5\r\n\r\n<p>x<"],
    "bad JSON": [OK + JSON + b"content-length: 1\r\n\r\n{"],
    "nothing": [OK + JSON + b"content-length: 0\r\n\r\n"],
    "500": [b"HTTP/1.1 500 X\r\n" + JSON + b'content-length: 13\r\n\r\n{"error":"x"}'],
    "404": [b"HTTP/1.1 404 X\r\n" + JSON + b'content-length: 13\r\n\r\n{"error":"x"}'],
    "503": [b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n"],
    "a redirect": [b"HTTP/1.1 302 X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"],
    "a frame with an error": [OK + b'content-length: 34\r\n\r\n{"text":"x","error_code":50001}\0\0\0\0'],
}
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/embeddings", "/worker_generate_stream")


class Engine(socketserver.ThreadingTCPServer):
    """Serves the model `m` to those who ask for models or a status, and breaks on all else as `fault` says."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server_address[1]}"
        self.fault: list[bytes] = []
        self.hang = False
        self.hangs = threading.Event()


class Handler(socketserver.StreamRequestHandler):
    server: Engine

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while self._answer():
                pass

    def _answer(self) -> bool:
        line = self.rfile.readline()
        length = 0
        while (field := self.rfile.readline()) not in (b"\r\n", b""):
            if field.lower().startswith(b"content-length:"):
                length = int(field[15:])
        self.rfile.read(length)
        answer = b""
        if line.startswith(b"GET /v1/models "):
            answer = b'{"object":"list","data":[{"id":"m","object":"model"}]}'
        elif line.startswith(b"POST /worker_get_status "):
            answer = b'{"model_names":["m"],"speed":1,"queue_length":0}'
        if answer or not line.startswith(b"POST "):
            status = b"200" if answer else b"404"
            self.wfile.write(b"HTTP/1.1 %b X\r\n%bcontent-length: %d\r\n\r\n%b" % (status, JSON, len(answer), answer))
            return bool(line)
        if self.server.hang:
            self.server.hangs.wait(DEADLINE_S)
            return False
        for piece in self.server.fault:
            if piece == RESET:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            else:
                self.wfile.write(piece)
        return False


@contextlib.contextmanager
def served(engine: Engine) -> Iterator[None]:
    thread = threading.Thread(target=engine.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        engine.hangs.set()
        engine.shutdown()
        engine.server_close()
        thread.join(DEADLINE_S)


@pytest.fixture(params=["engine", "worker", "worker of a site"])
def tree(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[tuple[Running, Engine]]:
    """A node that clients use, and the engine below it."""
    engine = Engine()
    settings = QUICK.model_copy(update={"hold_s": 0.0, "total_timeout_s": 0.3})
    with served(engine):
        if request.param == "engine":
            config = NodeConfig(
                name="root",
                listen=(("127.0.0.1", 0),),
                advertise="http://127.0.0.1:0",
                engines=(EngineConfig(name="gpu", kind="openai", url=engine.url),),
                settings=settings,
            )
            node = cluster.serve(config)
        else:
            node = above = cluster.node("root", settings=settings)
            if request.param == "worker of a site":
                above = cluster.node("site", parents=(node.url,), settings=settings)
            register(above, engine)
        wait_for_model(node.url, "m")
        yield node, engine


def register(node: Running, engine: Engine) -> None:
    status = {"model_names": ["m"], "speed": 1, "queue_length": 0}
    message = {"worker_name": engine.url, "check_heart_beat": False, "worker_status": status}
    assert httpx.post(f"{node.url}/register_worker", json=message).status_code == 200


def texts(response: httpx.Response) -> str:
    return "\n".join([*(f"{name}: {value}" for name, value in response.headers.items()), response.text])


def exchange(node: Running, path: str, stream: bool) -> str:
    """All that a client reads."""
    body: dict[str, Any] = {"model": "m", "prompt": "x", "input": "x", "max_tokens": 3, "stream": stream}
    body["messages"] = [{"role": "user", "content": "x"}]
    read = b""
    try:
        with httpx.stream("POST", node.url + path, json=body, timeout=DEADLINE_S) as response:
            read = "\n".join(f"{name}: {value}" for name, value in response.headers.items()).encode()
            read += b"\n%d\n" % response.status_code
            for data in response.iter_raw():
                read += data
    except httpx.HTTPError as error:
        return read.decode("latin-1") + repr(error)
    return read.decode("latin-1")


def check(engine: Engine, text: str, where: object) -> None:
    port = str(engine.server_address[1])
    assert HOST not in text, where
    assert re.search(rf"(?<!\d){port}(?!\d)", text) is None, where


def test_no_failure_shows_a_client_the_engines_address(tree: tuple[Running, Engine]) -> None:
    node, engine = tree
    statuses = set()
    for name, fault in FAULTS.items():
        engine.fault = fault
        for path in PATHS:
            for stream in (False, True):
                text = exchange(node, path, stream)
                check(engine, text, (name, path, stream, text))
                statuses |= set(re.findall(r"\n(\d{3})\n", text))
    assert statuses >= {"502"}


def test_an_engine_that_hangs_or_has_gone_shows_no_address(tree: tuple[Running, Engine], cluster: Cluster) -> None:
    node, engine = tree
    engine.hang = True
    child = node.node.registry.children.get("gpu")
    paths = PATHS[:1] if child is not None else PATHS[-1:]  # without a question to a worker before
    found = [exchange(node, path, stream) for path in paths for stream in (False, True)]
    assert all("in the time" in text for text in found), found
    engine.hangs.set()
    engine.server_close()  # nothing listens there now
    found += [exchange(node, path, stream) for path in PATHS for stream in (False, True)]
    assert any("cannot be reached" in text for text in found)
    for text in found:
        check(engine, text, text)


def test_lists_for_clients_have_labels(tree: tuple[Running, Engine]) -> None:
    node, engine = tree
    engine.fault = [OK + b'content-length: 28\r\n\r\n{"text":"x","error_code":0}\0']
    response = httpx.post(f"{node.url}/worker_generate_stream", json={"model": "m", "prompt": "x"})
    path = response.headers.get("x-hierarchy-path", "")
    assert response.status_code == 200
    rows = httpx.get(f"{node.url}/v1/models")
    listed = rows.json()["data"][0]["served_by"]
    shown = httpx.get(f"{node.url}/tree").json()
    entries = [shown]
    while entries[-1].get("children"):
        entries += entries[-1]["children"].values()
    entry = entries[-1]
    assert entry["url"] == engine.url, "operators see it"
    if entry["kind"] == "fastchat":
        assert [path] == listed
        assert path.rpartition("/")[2] == entry["label"]
        assert entry["label"].startswith("worker-")
    else:
        assert listed == ["gpu"]
        assert "label" not in entry
    answers = [response, rows, httpx.get(f"{node.url}/v1/models/m"), httpx.get(f"{node.url}/health")]
    answers += [httpx.post(node.url + at, json={}) for at in ("/list_models", "/worker_get_status", "/model_details")]
    answers += [httpx.post(f"{node.url}/v1/chat/completions", json={"model": "x"}), httpx.get(f"{node.url}/x")]
    for answer in answers:
        check(engine, texts(answer), answer.request.url)


def test_a_worker_that_is_removed_while_it_answers_shows_no_address(cluster: Cluster) -> None:
    engine, node = Engine(), cluster.node("root")
    with served(engine):
        engine.hang = True
        register(node, engine)
        wait_for_model(node.url, "m")
        found: list[str] = []
        client = threading.Thread(target=lambda: found.append(exchange(node, "/worker_generate_stream", stream=True)))
        client.start()
        child = node.node.registry.children[engine.url]
        eventually(lambda: child.in_flight == 1, "the request")
        cluster.loop.call_soon_threadsafe(node.node.clients.drop_child, child)
        client.join(DEADLINE_S)
    assert "was disconnected" in found[0]
    check(engine, found[0], found[0])
