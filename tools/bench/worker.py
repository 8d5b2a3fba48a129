"""An engine that costs next to nothing, so that the router before it is what gets measured.

`python worker.py PORT [--interval S] [--chunks N] [--chunk-bytes N] [--model M]`, on 127.0.0.1; ends with its stdin.
POST with `"stream": true` sends N SSE events of OpenAI's form, S seconds apart (0: as fast as they are taken); any
other POST answers a completion of 1 KB at once. `user` in a request names its stream: `GET /gone` tells when the
client of each named stream left ({name: seconds of CLOCK_MONOTONIC}), and how many streams are open.
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
ANSWER_BYTES = 1024
HIGH_WATER = 64 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream":\s*true')
_USER = re.compile(rb'"user":\s*"([^"]*)"')


def http_chunk(data: bytes) -> bytes:
    """One chunk of HTTP's chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(content: Any, kind: bytes = b"application/json") -> bytes:
    """A complete answer, `content` as JSON unless it is bytes already."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return HEAD % kind + b"content-length: %d\r\n\r\n%b" % (len(body), body)


@dataclass
class Engine:
    """What all connections share: what to send, and what is going on."""

    model: str
    interval_s: float
    chunks: int
    chunk_bytes: int
    running: int = 0
    gone: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chunk = http_chunk(b"data: " + self._padded(self.chunk_bytes, self._event) + b"\n\n")
        self.end = http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        self.answer = whole(self._padded(ANSWER_BYTES, self._completion))

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
        """JSON with as much text in it as makes it `size` bytes long."""
        missing = size - len(json.dumps(make("")))
        return json.dumps(make("x" * max(1, missing))).encode()

    def get(self, path: bytes) -> bytes:
        """What routers ask an engine for, to know its models, health and load."""
        if path == b"/gone":
            return whole({"gone": self.gone, "running": self.running})
        if path == b"/v1/models":
            model = {"id": self.model, "object": "model", "created": 1, "owned_by": "bench", "max_model_len": 8192}
            return whole({"object": "list", "data": [model]})
        if path == b"/metrics":
            rows = {"running": self.running, "waiting": 0}.items()
            text = "".join(f'vllm:num_requests_{row}{{model_name="{self.model}"}} {count}\n' for row, count in rows)
            return whole(text.encode(), b"text/plain; version=0.0.4")
        served = {"model_path": self.model, "served_model_name": self.model, "is_generation": True}
        return whole({"status": "ok", **served, "tp_size": 1, "dp_size": 1, "version": "0"})


class Client(asyncio.Protocol):
    """One connection of a router."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._transport = cast(asyncio.Transport, None)
        self._received = bytearray()
        self._left = 0  # chunks of the stream that runs; 0: none does
        self._user = ""
        self._timer: asyncio.Handle | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._left:
            self._left = 0
            self._engine.running -= 1
            if self._user:
                self._engine.gone[self._user] = time.monotonic()
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
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
            self._go_on()
        else:
            self._transport.write(self._engine.answer)

    def _go_on(self) -> None:
        engine, loop = self._engine, asyncio.get_running_loop()
        self._timer = None
        while self._left and not self._paused:
            self._transport.write(engine.chunk)
            self._left -= 1
            if self._left and engine.interval_s:
                self._timer = loop.call_later(engine.interval_s, self._go_on)
                return
        if not self._left:
            engine.running -= 1
            self._transport.write(engine.end)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._left and self._timer is None:
            self._timer = asyncio.get_running_loop().call_soon(self._go_on)


async def serve(engine: Engine, port: int) -> None:
    """Until SIGTERM, or until stdin ends: then whoever started us is gone."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(0, _look_at_stdin, stop)
    server = await loop.create_server(lambda: Client(engine), "127.0.0.1", port, backlog=4096)
    await stop.wait()
    server.close()


def _look_at_stdin(stop: asyncio.Event) -> None:
    if not os.read(0, 4096):
        stop.set()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--interval", type=float, default=0.01, help="seconds between two chunks")
    parser.add_argument("--chunks", type=int, default=128, help="chunks of one stream")
    parser.add_argument("--chunk-bytes", type=int, default=200, help="JSON in one chunk")
    parser.add_argument("--model", default="bench")
    given = parser.parse_args()
    uvloop.run(serve(Engine(given.model, given.interval, given.chunks, given.chunk_bytes), given.port))


if __name__ == "__main__":
    main()
