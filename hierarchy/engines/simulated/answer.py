"""A generation as an ASGI response: it ends, and frees its slot, the moment its client leaves."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from hierarchy.engines.simulated.engine import Cut, Engine, Job


class Reply(Protocol):
    """How one API writes an answer."""

    streaming: bool
    media_type: str

    def token(self, index: int) -> bytes:
        """What a stream sends for token `index`."""

    def closing(self) -> bytes:
        """What a stream ends with, or the whole body if it is not one."""


class Answer:
    """Runs `job` and sends it as `reply` writes it. Callable as an ASGI application, so Starlette takes it."""

    def __init__(self, engine: Engine, job: Job, reply: Reply) -> None:
        self._engine = engine
        self._job = job
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            unfinished = work.cancel()
            gone.cancel()
            await asyncio.wait((work, gone))
            self._engine.cancelled += unfinished
        if not unfinished:
            work.result()  # a defect of ours shall be logged by the server, not lost

    async def _send(self, send: Send) -> None:
        if self._job.fault.status is not None:
            await self._send_error(send, self._job.fault.status)
        elif self._reply.streaming:
            await self._send_stream(send)
        else:
            await self._send_whole(send)

    async def _send_stream(self, send: Send) -> None:
        if not self._job.fault.hang:
            # Engines send the head before they have computed anything; routers must not take it for a first token.
            await send(self._head(200, self._reply.media_type))

        async def emit(index: int) -> None:
            await send({"type": "http.response.body", "body": self._reply.token(index), "more_body": True})

        try:
            await self._engine.generate(self._job, emit)
        except Cut:
            self._engine.faulted += 1
            return  # an answer left unfinished: the server closes the connection
        await send({"type": "http.response.body", "body": self._reply.closing()})
        self._engine.served += 1

    async def _send_whole(self, send: Send) -> None:
        body = self._reply.closing()
        head = self._head(200, self._reply.media_type, len(body))

        async def emit(index: int) -> None:
            pass

        try:
            await self._engine.generate(self._job, emit)
        except Cut:
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
