"""The ASGI response to a generate request. It ends, and frees its slot, as soon as the client disconnects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from hierarchy.engines.simulated.engine import ConnectionCut, Engine, Job, WrongEnd
from hierarchy.engines.simulated.faults import Answer
from hierarchy.engines.simulated.reset import reset_connection

#: bodies that need no computation
WRONG_BODIES: Mapping[Answer, bytes] = {
    "html": b"<!doctype html><title>502</title><h1>Bad gateway</h1>\n",  # of a proxy that lost its engine
    "garbage": b"\x00\xff\x1f{]not json\n",
    "empty": b"",
}


class Body(Protocol):
    """The body of a response in one API."""

    streaming: bool
    media_type: str

    def token(self, index: int) -> bytes:
        """The part of a stream for token `index`."""

    def end(self) -> bytes:
        """The end of a stream; the complete body if it is not a stream."""

    def error(self) -> bytes:
        """An error with status 200: the last events of a stream, or a whole body."""


class GenerationResponse:
    """Runs `job` and sends `body`. Callable as an ASGI application, so Starlette accepts it as a response."""

    def __init__(self, engine: Engine, job: Job, body: Body) -> None:
        self._engine = engine
        self._job = job
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._send(scope, send))
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

    async def _send(self, scope: Scope, send: Send) -> None:
        fault = self._job.fault
        if fault.reset:
            self._engine.faulted += 1
            await reset_connection(scope)
        elif fault.status is not None:
            await self._send_error(send, fault.status)
        elif fault.answer is not None and fault.answer in WRONG_BODIES:
            await self._send_wrong_body(send, fault.answer)
        else:
            try:
                await (self._send_stream(send) if self._body.streaming else self._send_whole(send))
            except ConnectionCut:  # the response is unfinished, so the server closes the connection
                self._engine.faulted += 1
                if fault.reset_after_tokens is not None:
                    await reset_connection(scope)

    async def _send_stream(self, send: Send) -> None:
        if not self._job.fault.hang:
            # Engines send the head before they have computed anything. Routers must not count it as the first token.
            await send(self._head(200, self._body.media_type))

        async def emit(index: int) -> None:
            await send({"type": "http.response.body", "body": self._body.token(index), "more_body": True})

        try:
            await self._engine.generate(self._job, emit)
        except WrongEnd as end:
            self._engine.faulted += 1
            event = self._body.error() if self._job.fault.answer == "error" else _half(self._body.token(end.after))
            await send({"type": "http.response.body", "body": event})
        else:
            await send({"type": "http.response.body", "body": self._body.end()})
            self._engine.served += 1

    async def _send_whole(self, send: Send) -> None:
        body = self._body.end()

        async def emit(index: int) -> None:
            pass

        try:
            await self._engine.generate(self._job, emit)
        except ConnectionCut:
            await send(self._head(200, self._body.media_type, len(body)))
            await send({"type": "http.response.body", "body": _half(body), "more_body": True})
            raise
        except WrongEnd:
            self._engine.faulted += 1
            body = self._body.error() if self._job.fault.answer == "error" else _half(body)
        else:
            self._engine.served += 1
        await send(self._head(200, self._body.media_type, len(body)))
        await send({"type": "http.response.body", "body": body})

    async def _send_error(self, send: Send, status: int) -> None:
        self._engine.faulted += 1
        message = {"message": "a simulated fault", "type": "simulated_fault", "param": None, "code": status}
        body = json.dumps({"error": message}).encode()
        await send(self._head(status, "application/json", len(body)))
        await send({"type": "http.response.body", "body": body})

    async def _send_wrong_body(self, send: Send, answer: Answer) -> None:
        self._engine.faulted += 1
        media_type, body = self._body.media_type, WRONG_BODIES[answer]
        if answer == "html":
            media_type = "text/html; charset=utf-8"
        await send(self._head(200, media_type, None if self._body.streaming else len(body)))
        await send({"type": "http.response.body", "body": body})

    @staticmethod
    def _head(status: int, media_type: str, length: int | None = None) -> dict[str, Any]:
        headers = [(b"content-type", media_type.encode())]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        return {"type": "http.response.start", "status": status, "headers": headers}


def _half(body: bytes) -> bytes:
    return body[: len(body) // 2]


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
