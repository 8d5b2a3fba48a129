"""Paths that swallow packets, between a node and its engine: nothing closes, and nothing is acknowledged."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from hierarchy.config.models import EngineConfig, NodeConfig
from tests import black_hole
from tests.cluster import QUICK, Cluster, chat, wait_for_model
from tests.support import eventually

MODELS = b'{"object":"list","data":[{"id":"simulated","object":"model"}]}'
LIST = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(MODELS), MODELS)


class Engine:
    """Lists its model, and never answers a request for it. `lose` puts it behind a black hole."""

    def __init__(self) -> None:
        self.waiting = 0  # requests for the model
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._keep(self._server.sockets[0])

    def _keep(self, sock: Any) -> None:
        self._sockets.append(socket.socket(fileno=os.dup(sock.fileno())))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.append(asyncio.current_task())  # type: ignore[arg-type]
        self._keep(writer.get_extra_info("socket"))
        while line := await reader.readline():
            if line.startswith(b"GET"):
                writer.write(LIST)
            self.waiting += line.startswith(b"POST")

    def lose(self) -> None:
        """Swallow what arrives, on open connections and new ones."""
        for sock in self._sockets:
            black_hole.swallow(sock)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def engine(cluster: Cluster) -> Iterator[Engine]:
    engine = Engine()
    cluster.call(engine.start())
    yield engine
    cluster.call(engine.stop())


def node_above(cluster: Cluster, engine: Engine) -> str:
    """A node that prefers this engine to another one. Returns its URL."""
    other = cluster.engine()
    config = NodeConfig(
        name="n",
        listen=(("127.0.0.1", 0),),
        advertise="http://127.0.0.1:0",
        engines=(
            EngineConfig(name="lost", kind="openai", url=engine.url, speed=100.0),
            EngineConfig(name="other", kind="simulated", url=other.url),
        ),
        settings=QUICK,
    )
    url = cluster.serve(config).url
    wait_for_model(url, "simulated", 2)
    return url


@black_hole.linux
def test_requests_that_wait_at_an_engine_in_a_black_hole_are_served_by_another_within_5_s(
    cluster: Cluster, engine: Engine
) -> None:
    url = node_above(cluster, engine)
    answers: list[httpx.Response] = []
    askers = [threading.Thread(target=lambda: answers.append(chat(url, "simulated"))) for _ in range(2)]
    askers[0].start()
    eventually(lambda: engine.waiting == 1)
    engine.lose()
    began = time.monotonic()
    askers[1].start()  # the bytes of this one are not acknowledged
    for asker in askers:
        asker.join(10.0)
    eventually(lambda: httpx.get(f"{url}/tree").json()["children"]["lost"]["state"] == "down")
    assert time.monotonic() - began < 5.0
    assert [(answer.status_code, answer.headers["x-hierarchy-path"]) for answer in answers] == [(200, "other")] * 2
