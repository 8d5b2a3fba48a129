"""Clients and engines that mean harm, as processes of their own: `python -m tests.chaos.attackers KIND PORT`.

Each holds or floods what a node has for everybody: its turns on the event loop, its memory, its descriptors. All end
with their parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

from tests.chaos.load import MODEL

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
BLOCK = 1 << 20  # bytes that a flood writes at once
UNFINISHED, PART = 30, 31 << 20  # bodies that are never complete, and bytes of each
STRANGERS = 240  # connections that never send a byte


def local_requests() -> bytes:
    """Requests that the node answers itself, many in one read."""
    return b"POST /link HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


def heartbeats() -> bytes:
    """Reports of a child that is not known."""
    body = b'{"worker_name": "http://127.0.0.1:9", "queue_length": 0}'
    return b"POST /receive_heart_beat HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def failing() -> bytes:
    """Requests without a model."""
    return CHAT + b"content-length: 2\r\n\r\n{}"


def _flood(port: int, data: bytes, first: bytes = b"") -> None:
    """Write the same bytes for ever, and read what comes; again on a new connection when it ends."""
    block = data * max(1, BLOCK // len(data))
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
            threading.Thread(target=_drain, args=(sock,), daemon=True).start()
            if first:
                sock.sendall(first)
            while True:
                sock.sendall(block)


def _drain(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while sock.recv(BLOCK):
            pass


def bytewise(port: int) -> None:
    """An endless body in chunks of one byte."""
    _flood(port, b"1\r\nx\r\n", CHAT + b"transfer-encoding: chunked\r\n\r\n")


def strangers(port: int) -> None:
    """Connections that never send a byte, opened again when they are closed."""
    held: list[socket.socket] = []
    while True:
        with contextlib.suppress(OSError):
            while len(held) < STRANGERS:
                held.append(socket.create_connection(("127.0.0.1", port), timeout=1.0))
                held[-1].setblocking(False)
        time.sleep(0.05)
        held = [sock for sock in held if not _is_closed(sock)]


def _is_closed(sock: socket.socket) -> bool:
    try:
        closed = not sock.recv(4096)
    except BlockingIOError:
        return False
    except OSError:
        closed = True
    if closed:
        sock.close()
    return closed


def unfinished(port: int) -> None:
    """Long bodies that are never complete, on connections of which each is opened again when it is closed."""
    data = CHAT + b"content-length: %d\r\n\r\n" % (PART + 1) + b" " * PART

    def one() -> None:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(data)
                _drain(sock)

    for _ in range(UNFINISHED):
        threading.Thread(target=one, daemon=True).start()
    threading.Event().wait()


def two_byte_chunks(port: int) -> None:
    """A body of 26 MB in chunks of two bytes, which is not completed."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(CHAT + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(26):
            sock.sendall(b"2\r\nxx\r\n" * (1 << 19))
        threading.Event().wait()


def endless_interim(port: int) -> None:
    """An engine that lists its model, and answers everything else with interim responses for ever."""
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_serve_interim, args=(sock,), daemon=True).start()


def _serve_interim(sock: socket.socket) -> None:
    with contextlib.suppress(OSError), sock:
        while data := sock.recv(65536):
            if data.startswith(b"POST"):
                while True:
                    sock.sendall(INTERIM * 40_000)
            body = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


KINDS: dict[str, Callable[[int], None]] = {
    "local-requests": lambda port: _flood(port, local_requests()),
    "heartbeats": lambda port: _flood(port, heartbeats()),
    "failing-requests": lambda port: _flood(port, failing()),
    "one-byte-chunks": bytewise,
    "endless-interim": endless_interim,
    "idle-strangers": strangers,
    "unfinished-bodies": unfinished,
    "two-byte-chunks": two_byte_chunks,
}


class Attack:
    """Attackers of one kind while the block runs. count: of processes. port: of the node, or of an evil engine."""

    def __init__(self, kind: str, port: int, count: int = 1) -> None:
        self._argv = [sys.executable, "-m", "tests.chaos.attackers", kind, str(port)]
        self._count = count
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._processes = [subprocess.Popen(self._argv) for _ in range(self._count)]
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def __repr__(self) -> str:
        return f"<Attack {self._argv[-2]}>"


def _end_with_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Iterator[str]) -> None:
    """Attack until killed."""
    kind, port = arguments
    _end_with_parent()
    KINDS[kind](int(port))


if __name__ == "__main__":
    main(iter(sys.argv[1:]))
