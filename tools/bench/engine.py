"""An engine that needs almost no CPU time, so that the router in front of it is what is measured.

`python engine.py PORT [--interval S] [--chunks N] [--chunk-bytes N] [--model M]`, on 127.0.0.1. It ends when its stdin
closes. A POST with `"stream": true` gets N SSE events in OpenAI's format, S seconds apart (0: as fast as the client
reads). Any other POST gets a completion of 1 KB at once. `user` in a request names its stream: `GET /gone` returns when
the client of each named stream disconnected ({name: seconds of CLOCK_MONOTONIC}), and how many streams are open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import time
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n"
STREAM_HEAD = HEAD % b"text/event-stream; charset=utf-8" + b"transfer-encoding: chunked\r\n\r\n"
RESPONSE_BYTES = 1024
HIGH_WATER = 64 * 1024  # bytes in the write buffer at which a stream pauses
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream":\s*true')
_USER = re.compile(rb'"user":\s*"([^"]*)"')


def http_chunk(data: bytes) -> bytes:
    """One chunk of HTTP's chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def response(content: Any, kind: bytes = b"application/json") -> bytes:
    """A complete response. content: bytes, or a value for JSON. kind: the content type."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return HEAD % kind + b"content-length: %d\r\n\r\n%b" % (len(body), body)


@dataclass
class Engine:
    """What all connections share: the bytes to send, and the state."""

    model: str
    interval_s: float
    chunks: int
    chunk_bytes: int
    #: open streams
    running: int = 0
    #: name of a stream → when its client disconnected
    gone: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chunk = http_chunk(b"data: " + self._padded(self.chunk_bytes, self._event) + b"\n\n")
        self.end = http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        self.response = response(self._padded(RESPONSE_BYTES, self._completion))

    def _event(self, text: str) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
        return {
            "id": "bench",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self.model,
            "choices": [choice],
        }

    def _completion(self, text: str) -> dict[str, Any]:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 200, "completion_tokens": 150, "total_tokens": 350}
        known = {"id": "bench", "object": "chat.completion", "created": 1, "model": self.model}
        return {**known, "choices": [choice], "usage": usage}

    @staticmethod
    def _padded(size: int, make: Any) -> bytes:
        """JSON of `make(text)`, with a text that makes it `size` bytes long."""
        missing = size - len(json.dumps(make("")))
        return json.dumps(make("x" * max(1, missing))).encode()

    def get(self, path: bytes) -> bytes:
        """The response to a GET request. Routers probe models, health and load."""
        if path == b"/gone":
            return response({"gone": self.gone, "running": self.running})
        if path == b"/v1/models":
            model = {"id": self.model, "object": "model", "created": 1, "owned_by": "bench", "max_model_len": 8192}
            return response({"object": "list", "data": [model]})
        if path == b"/metrics":
            rows = {"running": self.running, "waiting": 0}.items()
            text = "".join(f'vllm:num_requests_{row}{{model_name="{self.model}"}} {count}\n' for row, count in rows)
            return response(text.encode(), b"text/plain; version=0.0.4")
        served = {"model_path": self.model, "served_model_name": self.model, "is_generation": True}
        return response({"status": "ok", **served, "tp_size": 1, "dp_size": 1, "version": "0"})


class Client(asyncio.Protocol):
    """A connection from a router."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._transport = cast(asyncio.Transport, None)
        self._received = bytearray()
        self._left = 0  # chunks that the stream still has to send; 0: no stream runs
        self._user = ""  # name of the stream
        self._timer: asyncio.Handle | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A router has connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        """The router has disconnected; if a stream runs, its client did."""
        if self._left:
            self._left = 0
            self._engine.running -= 1
            if self._user:
                self._engine.gone[self._user] = time.monotonic()
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Handle each request that is complete."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[: end + 2])
            length = _LENGTH.search(head)
            if length is not None:
                until = end + 4 + int(length[1])
            elif b"transfer-encoding: chunked" in head.lower():
                until = self._received.find(b"0\r\n\r\n", end + 4) + 5
                if until < 5:
                    return
            else:
                until = end + 4
            if len(self._received) < until:
                return
            body = bytes(self._received[end + 4 : until])
            del self._received[:until]
            self._handle(head, body)

    def _handle(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET "):
            self._transport.write(self._engine.get(head.split(b" ", 2)[1]))
        elif _STREAM.search(body, max(0, len(body) - 1024)) or _STREAM.search(body, 0, 1024):
            user = _USER.search(body, max(0, len(body) - 1024)) or _USER.search(body, 0, 1024)
            self._user = user[1].decode() if user else ""
            self._engine.running += 1
            self._left = self._engine.chunks
            self._transport.write(STREAM_HEAD)
            self._send_chunks()
        else:
            self._transport.write(self._engine.response)

    def _send_chunks(self) -> None:
        engine, loop = self._engine, asyncio.get_running_loop()
        self._timer = None
        while self._left and not self._paused:
            self._transport.write(engine.chunk)
            self._left -= 1
            if self._left and engine.interval_s:
                self._timer = loop.call_later(engine.interval_s, self._send_chunks)
                return
        if not self._left:
            engine.running -= 1
            self._transport.write(engine.end)

    def pause_writing(self) -> None:
        """The write buffer is full: send no more chunks."""
        self._paused = True

    def resume_writing(self) -> None:
        """The write buffer has space: continue the stream."""
        self._paused = False
        if self._left and self._timer is None:
            self._timer = asyncio.get_running_loop().call_soon(self._send_chunks)


async def serve(engine: Engine, port: int) -> None:
    """Serve until SIGTERM, or until stdin closes because the parent process ended."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(0, _on_stdin, stop)
    server = await loop.create_server(lambda: Client(engine), "127.0.0.1", port, backlog=4096)
    await stop.wait()
    server.close()


def _on_stdin(stop: asyncio.Event) -> None:
    if not os.read(0, 4096):
        stop.set()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--interval", type=float, default=0.01, help="seconds between two chunks of a stream")
    parser.add_argument("--chunks", type=int, default=128, help="chunks of one stream")
    parser.add_argument("--chunk-bytes", type=int, default=200, help="bytes of JSON in one chunk")
    parser.add_argument("--model", default="bench")
    given = parser.parse_args()
    uvloop.run(serve(Engine(given.model, given.interval, given.chunks, given.chunk_bytes), given.port))


if __name__ == "__main__":
    main()
