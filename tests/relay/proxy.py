"""A minimal HTTP proxy: CONNECT, and requests in absolute form, which it passes on as they are."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Self
from urllib.parse import urlsplit

from tests.cluster import Cluster


class Proxy:
    """In the cluster's loop. auth: `user:password` that it wants. refuse: 403 to CONNECT. asked: the request lines."""

    def __init__(self, cluster: Cluster, *, auth: str = "", refuse: bool = False) -> None:
        self.asked: list[str] = []
        self._cluster = cluster
        self._auth = auth
        self._refuse = refuse
        self._tasks: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._server: asyncio.Server = self._cluster.call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://{f'{self._auth}@' if self._auth else ''}127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()

        self._cluster.call(end())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        method, target, _ = head.split(b" ", 2)
        self.asked.append(head.split(b"\r\n")[0].decode())
        proof = b"roxy-authorization: basic %b" % base64.b64encode(self._auth.encode()).lower()
        if (self._refuse and method == b"CONNECT") or (self._auth and proof not in head.lower()):
            writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
            writer.close()
            return
        place = target.decode() if method == b"CONNECT" else urlsplit(target.decode()).netloc
        host, _, port = place.rpartition(":")
        down_reader, down_writer = await asyncio.open_connection(host, int(port))
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            down_writer.write(head)
        for source, sink in ((reader, down_writer), (down_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
