"""Thousands of engines in one process that needs little CPU time: `python -m tests.chaos.many_engines COUNT`.

Each listens on a port of 127.0.0.1 of its own, and answers as vLLM does, with metrics of a real size. It prints the
ports as one line of JSON, and ends when its stdin closes. Any engine tells with `GET /counts` what all were asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import uvloop

MODEL = "simulated"
METRICS_BYTES = 40_000  # vLLM's, with its histograms
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


def response(body: bytes, kind: bytes = b"application/json") -> bytes:
    """A complete response."""
    return b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
        kind,
        len(body),
        body,
    )


def _metrics() -> bytes:
    labels = f'{{engine="0",model_name="{MODEL}"}}'
    rows = [f"vllm:num_requests_running{labels} 0.0", f"vllm:num_requests_waiting{labels} 0.0"]
    size = 0
    while size < METRICS_BYTES:
        number = len(rows)
        row = f'vllm:time_to_first_token_seconds_bucket{{engine="0",le="{number}.0",model_name="{MODEL}"}} {number}.0'
        rows.append(row)
        size += len(row) + 1
    return "\n".join(rows).encode() + b"\n"


_COMPLETION = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
RESPONSES = {
    b"/health": response(b""),
    b"/v1/models": response(json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()),
    b"/metrics": response(_metrics(), b"text/plain; version=0.0.4"),
    b"/v1/chat/completions": response(json.dumps(_COMPLETION).encode()),
}


class Counts:
    """Of all engines."""

    def __init__(self) -> None:
        self.connections = 0  # accepted
        self.open = 0
        self.requests: dict[str, int] = {}  # by path


class Engine(asyncio.Protocol):
    """One connection to one of the engines."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._transport = cast(asyncio.Transport, None)
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A node has connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._counts.connections += 1
        self._counts.open += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """The node has disconnected."""
        self._counts.open -= 1

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n") + 4) >= 4:
            head = self._received[:end]
            length = _LENGTH.search(head)
            end += int(length[1]) if length else 0
            if len(self._received) < end:
                return
            self._received = self._received[end:]
            self._answer(head.split(b" ", 2)[1])

    def _answer(self, path: bytes) -> None:
        if path == b"/counts":
            self._transport.write(response(json.dumps(vars(self._counts)).encode()))
            return
        self._counts.requests[path.decode()] = self._counts.requests.get(path.decode(), 0) + 1
        self._transport.write(RESPONSES.get(path) or b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")


async def serve(count: int) -> None:
    """Serve `count` engines for ever."""
    loop, counts = asyncio.get_running_loop(), Counts()
    sockets = [socket.create_server(("127.0.0.1", 0), backlog=64) for _ in range(count)]
    for one in sockets:
        await loop.create_server(lambda: Engine(counts), sock=one)
    print(json.dumps([one.getsockname()[1] for one in sockets]), flush=True)  # noqa: T201
    await asyncio.Event().wait()


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


@contextlib.contextmanager
def many_engines(count: int) -> Iterator[list[int]]:
    """Run them while the block runs; yields their ports."""
    process: subprocess.Popen[Any] = subprocess.Popen(
        [sys.executable, "-m", __name__, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    uvloop.run(serve(int(sys.argv[1])))
