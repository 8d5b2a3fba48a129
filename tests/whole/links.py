"""Support for the tests of reverse links: their pools at both ends, and a TCP relay that can lose data."""

from __future__ import annotations

import asyncio
from typing import Any

from hierarchy.relay.upstream.links import LinkPool
from hierarchy.uplink.links import LinkReserve
from tests.cluster import Cluster, Running
from tests.support import eventually


def reserve_of(node: Running, number: int = 0) -> LinkReserve:
    """The links of a child to one of its parents."""
    return node.node.reserves[number]


def pool_of(parent: Running, child: str = "site") -> LinkPool:
    """A parent's pool of links of a child."""
    pool = parent.node.lane.pool(parent.node.registry.children[child])
    assert isinstance(pool, LinkPool)
    return pool


def wait_for_links(parent: Running, child: str = "site", count: int = 8) -> LinkPool:
    """Wait until the parent's pool has that many idle links of the child."""

    def enough() -> bool:  # a child that was dropped and came back has another pool
        return child in parent.node.registry.children and len(pool_of(parent, child).idle) >= count

    eventually(enough, f"{count} links of {child}")
    return pool_of(parent, child)


class LossyRelay:
    """A TCP relay in front of a node, in the cluster's loop, which can lose or break its connections."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self.cluster = cluster
        self._port = int(url.rpartition(":")[2])
        self._writers: set[asyncio.StreamWriter] = set()
        self._lost: set[asyncio.StreamWriter] = set()  # these get no more data, not even the end of the connection
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server = cluster.call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def swallow(self) -> None:
        """Lose everything that comes on the open connections; both ends stay open."""
        self._lost |= self._writers

    def cut(self) -> None:
        """Abort the open connections."""

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
        """Stop the relay and abort its connections."""

        async def end() -> None:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()
            for writer in self._writers:
                writer.transport.abort()

        self.cluster.call(end())
