"""Servers that answer every request with the same bytes, as a broken or hostile machine would."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
from collections.abc import Iterator

BOMB = gzip.compress(gzip.compress(b"\0" * 64 * 1024 * 1024))  # 300 bytes that are 64 MiB


def response(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    """A whole HTTP response."""
    head = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *fields]
    return "\r\n".join([*head, "connection: close", "", ""]).encode() + body


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Send `answer` on each connection, after one read. Yields the URL and the requests that came."""
    requests: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                requests.append(connection.recv(65536))
                connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
