"""The ASGI response to a generate request. It ends, and frees its slot, as soon as the client disconnects."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from hierarchy.engines.simulated.engine import ConnectionCut, Engine, Job


class Body(Protocol):
    """The body of a response in one API."""

    streaming: bool
    media_type: str

    def token(self, index: int) -> bytes:
        """The part of a stream for token `index`."""

    def end(self) -> bytes:
        """The end of a stream; the complete body if it is not a stream."""


class GenerationResponse:
    """Runs `job` and sends `body`. Callable as an ASGI application, so Starlette accepts it as a response."""

    def __init__(self, engine: Engine, job: Job, body: Body) -> None:
        self._engine = engine
        self._job = job
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._send(send))
        disconnect = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((work, disconnect), return_when=asyncio.FIRST_COMPLETED)
        finally:
            unfinished = work.cancel()
            disconnect.cancel()
            await asyncio.wait((work, disconnect))
            self._engine.cancelled += unfinished
        if not unfinished:
            work.result()  # raises an unexpected error, for the server to log

    async def _send(self, send: Send) -> None:
        if self._job.fault.status is not None:
            await self._send_error(send, self._job.fault.status)
        elif self._body.streaming:
            await self._send_stream(send)
        else:
            await self._send_whole(send)

    async def _send_stream(self, send: Send) -> None:
        if not self._job.fault.hang:
            # Engines send the head before they have computed anything. Routers must not count it as the first token.
            await send(self._head(200, self._body.media_type))

        async def emit(index: int) -> None:
            await send({"type": "http.response.body", "body": self._body.token(index), "more_body": True})

        try:
            await self._engine.generate(self._job, emit)
        except ConnectionCut:
            self._engine.faulted += 1
            return  # the response is unfinished, so the server closes the connection
        await send({"type": "http.response.body", "body": self._body.end()})
        self._engine.served += 1

    async def _send_whole(self, send: Send) -> None:
        body = self._body.end()
        head = self._head(200, self._body.media_type, len(body))

        async def emit(index: int) -> None:
            pass

        try:
            await self._engine.generate(self._job, emit)
        except ConnectionCut:
            self._engine.faulted += 1
            await send(head)
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            return
        await send(head)
        await send({"type": "http.response.body", "body": body})
        self._engine.served += 1

    async def _send_error(self, send: Send, status: int) -> None:
        self._engine.faulted += 1
        message = {"message": "a simulated fault", "type": "simulated_fault", "param": None, "code": status}
        body = json.dumps({"error": message}).encode()
        await send(self._head(status, "application/json", len(body)))
        await send({"type": "http.response.body", "body": body})

    @staticmethod
    def _head(status: int, media_type: str, length: int | None = None) -> dict[str, Any]:
        headers = [(b"content-type", media_type.encode())]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        return {"type": "http.response.start", "status": status, "headers": headers}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
