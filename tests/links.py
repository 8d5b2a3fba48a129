"""What the tests of reverse links need: trees with them, an engine of bytes, a relay that can stop forwarding."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx

from hierarchy.relay.upstream.links import LinkPool
from hierarchy.uplink.links import LinkReserve
from tests.cluster import Cluster, Running
from tests.support import eventually


def reserve_of(node: Running, number: int = 0) -> LinkReserve:
    return node.node.reserves[number]


def pool_of(parent: Running, child: str = "site") -> LinkPool:
    pool = parent.node.lane.pool(parent.node.registry.children[child])
    assert isinstance(pool, LinkPool)
    return pool


def wait_for_links(parent: Running, child: str = "site", count: int = 8) -> LinkPool:
    """Until so many idle links of the child stand in the parent's pool."""

    def there() -> bool:  # a child that was dropped meanwhile has another pool
        return child in parent.node.registry.children and len(pool_of(parent, child).idle) >= count

    eventually(there, f"{count} links of {child}")
    return pool_of(parent, child)


def counters(engine: Running) -> dict[str, int]:
    """What a simulated engine is doing."""
    answer: dict[str, int] = httpx.get(f"{engine.url}/simulated").json()
    return answer


class Skewed:
    """Monotonic seconds that a test can put forward."""

    def __init__(self) -> None:
        self.skew = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skew


class Hole:
    """A TCP relay in front of a port, in the cluster's loop, which can lose what passes through it."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self.cluster = cluster
        self._port = int(url.rpartition(":")[2])
        self._writers: set[asyncio.StreamWriter] = set()
        self._lost: set[asyncio.StreamWriter] = set()  # nothing reaches them any more, not even an end
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server = cluster.call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def swallow(self) -> None:
        """Forward nothing more of the connections that there are; both ends stay open."""
        self._lost |= self._writers

    def cut(self) -> None:
        """Break the connections that there are."""

        def work() -> None:
            for writer in list(self._writers):
                writer.transport.abort()

        self.cluster.loop.call_soon_threadsafe(work)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        down_reader, down_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for source, sink in ((reader, down_writer), (down_reader, writer)):
            self._writers.add(sink)
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if writer not in self._lost:
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            pass
        finally:
            if writer not in self._lost:
                self._writers.discard(writer)
                writer.close()

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()
            for writer in self._writers:
                writer.transport.abort()

        self.cluster.call(end())
