"""What the tests of reverse links need: trees with them, an engine of bytes, a relay that can stop forwarding."""

from __future__ import annotations

import asyncio
from typing import Any

from hierarchy.relay.link import LinkPool
from hierarchy.relay.reserve import Reserve
from tests.cluster import Cluster, Running
from tests.support import eventually


def reserve_of(node: Running, number: int = 0) -> Reserve:
    return node.node.reserves[number]


def pool_of(parent: Running, child: str = "site") -> LinkPool:
    pool = parent.node.lane.pool(parent.node.registry.children[child])
    assert isinstance(pool, LinkPool)
    return pool


def wait_for_links(parent: Running, child: str = "site", count: int = 8) -> LinkPool:
    """Until so many idle links of the child stand in the parent's pool."""
    eventually(lambda: child in parent.node.registry.children, f"{child} to register")
    pool = pool_of(parent, child)
    eventually(lambda: len(pool.idle) >= count, f"{count} links of {child}")
    return pool


class Hole:
    """A TCP relay in front of a port, in the cluster's loop. `shut`: it takes bytes and forwards none, nor any FIN."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self.cluster = cluster
        self.shut = False
        self.accepting = True
        self.opened = 0  # connections, ever
        self._port = int(url.rpartition(":")[2])
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server = cluster.call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        if not self.accepting:
            writer.close()
            return
        down_reader, down_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for source, sink in ((reader, down_writer), (down_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if not self.shut:
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            pass
        finally:
            if not self.shut:
                writer.close()

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()

        self.cluster.call(end())
