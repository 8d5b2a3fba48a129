"""Whole trees in one process: real nodes and simulated engines on real sockets. Their event loop runs in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self

import httpx
import uvicorn
import uvloop

from hierarchy.api import build_app
from hierarchy.config.models import EngineConfig, NodeConfig, RequestedLink, Settings
from hierarchy.engines.simulated.app import create_app
from hierarchy.engines.simulated.options import SimulatedOptions
from hierarchy.node import Node
from hierarchy.server import Server, bind
from tests.support import DEADLINE_S, eventually

#: requests are not held, so that an error comes at once
QUICK = Settings(report_interval_s=0.4, probe_interval_s=0.1, grace_s=5.0, hold_s=0.0)
#: for tests that do not wait for reports: a busy machine may delay a node for seconds before it counts as silent
CALM = QUICK.model_copy(update={"report_interval_s": 5.0})


@dataclass
class Running:
    """A server that runs in the cluster's loop."""

    url: str
    server: uvicorn.Server
    task: asyncio.Task[None]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def node(self) -> Node:
        assert isinstance(self.server, Server)
        return self.server.node


class Cluster:
    """Starts nodes and engines, and stops all of them at its end."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._running: list[Running] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for running in reversed(self._running):
            self.stop(running)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        self.loop.close()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the cluster's loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(DEADLINE_S)

    def node(
        self,
        name: str,
        *,
        parents: tuple[str, ...] = (),
        engines: tuple[str, ...] = (),
        kind: str = "simulated",
        settings: Settings = QUICK,
        replica_of: str | None = None,
        link: RequestedLink = "direct",
        proxy: str = "none",
        advertise: str = "http://127.0.0.1:0",
        port: int = 0,
        **options: Any,
    ) -> Running:
        """Start a node. engines: URLs. port: 0 for any. options: as for `serve`."""
        config = NodeConfig(
            name=name,
            listen=(("127.0.0.1", port),),
            advertise=advertise,
            parents=parents,
            link=link,
            proxy=proxy,
            replica_of=replica_of,
            engines=tuple(
                EngineConfig(name=f"{name}-{number}", kind=kind, url=url)  # type: ignore[arg-type]
                for number, url in enumerate(engines, 1)
            ),
            settings=settings,
        )
        return self.serve(config, **options)

    def serve(self, config: NodeConfig, **options: Any) -> Running:
        """Start a node from its configuration, best with port 0. options: passed to `Node`.

        By default the node knows from its start which models do not exist.
        """
        config, sockets = bind(config)
        node = Node(config, **{"settle_s": 0.0, **options})
        scheme = "https" if config.settings.tls.cert else "http"
        return self._serve(f"{scheme}://127.0.0.1:{config.listen[0][1]}", Server(node, build_app(node)), sockets)

    def engine(self, **options: Any) -> Running:
        """Start a simulated engine, a fast one by default. options: of `SimulatedOptions`."""
        settings: dict[str, Any] = {"decode_tokens_per_s": 2000.0, "prefill_tokens_per_s": 1e6, **options}
        config, sockets = bind(NodeConfig(name="e", listen=(("127.0.0.1", 0),), advertise="http://127.0.0.1:0"))
        app = create_app(SimulatedOptions(**{"address": config.advertise, **settings}))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
        return self._serve(config.advertise, server, sockets)

    def stop(self, running: Running) -> None:
        """Stop one server gracefully."""
        if running in self._running:
            self._running.remove(running)
            running.server.should_exit = True
            self.call(asyncio.wait_for(running.task, DEADLINE_S))

    def _serve(self, url: str, server: uvicorn.Server, sockets: Any) -> Running:
        async def start() -> asyncio.Task[None]:
            return asyncio.get_running_loop().create_task(server.serve(sockets))

        running = Running(url, server, self.call(start()))
        self._running.append(running)
        eventually(lambda: server.started or running.task.done(), f"{url} to listen")
        return running


def models_at(url: str) -> dict[str, list[str]]:
    """The models that a node lists, each with the names of its engines."""
    rows = httpx.get(f"{url}/v1/models").json()["data"]
    return {row["id"]: row["served_by"] for row in rows}


def wait_for_model(url: str, model: str, count: int = 1) -> None:
    """Wait until a node lists the model with that many engines."""
    eventually(lambda: len(models_at(url).get(model, ())) >= count, f"{url} to list {model} {count} times")


def chat(url: str, model: str = "simulated", **fields: Any) -> httpx.Response:
    """Request one chat completion."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=DEADLINE_S)


def counters(engine: Running) -> dict[str, int]:
    """The counters of a simulated engine, such as `running`."""
    found: dict[str, int] = httpx.get(f"{engine.url}/simulated").json()
    return found
