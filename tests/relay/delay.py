"""A TCP proxy that delays every byte, in both directions: a site that is far away, on one machine."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from tests.cluster import Cluster


class Delay:
    """In the cluster's loop, in front of a port. seconds: of each way; it may be changed at any time."""

    def __init__(self, cluster: Cluster, port: int, seconds: float) -> None:
        self.seconds = seconds
        self._cluster = cluster
        self._port = port
        self._tasks: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._server: asyncio.Server = self._cluster.call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()

        self._cluster.call(end())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        below_reader, below_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for source, sink in ((reader, below_writer), (below_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await reader.read(65536):
                loop.call_later(self.seconds, writer.write, data)
        except ConnectionError:
            pass
        finally:
            loop.call_later(self.seconds, writer.close)
