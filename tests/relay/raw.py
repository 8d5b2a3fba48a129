"""Requests and responses as bytes, raw clients, and a transport for tests of the lane."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httptools

from hierarchy.http.framing import Chunked
from tests.support import DEADLINE_S

Piece = bytes | bytearray | memoryview
MODEL = "m"
BODY = b'{"model":"m"}'
OK_BODY = b'{"ok":true}'


def http_response(body: bytes = OK_BODY, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """A response with a length."""
    lines = b"".join(line + b"\r\n" for line in fields)
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), lines, body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


HEALTH = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(text: str) -> bytes:
    return b"data: %b\n\n" % text.encode()


def post(body: bytes = BODY, *fields: bytes, path: bytes = b"/v1/chat/completions", version: bytes = b"1.1") -> bytes:
    """A request with a length."""
    return post_head(b"content-length: %d" % len(body), *fields, path=path, version=version) + body


def post_head(*fields: bytes, path: bytes = b"/v1/chat/completions", version: bytes = b"1.1") -> bytes:
    lines = b"".join(line + b"\r\n" for line in (b"host: lane", *fields))
    return b"POST %b HTTP/%b\r\n%b\r\n" % (path, version, lines)


@dataclass
class ReceivedResponse:
    """A response as its client parsed it. complete: by its framing, not by the end of the connection."""

    status: int = 0
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True

    def get(self, name: bytes) -> list[bytes]:
        return [value for field, value in self.fields if field == name]

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object."""
        assert self.get(b"content-type") == [b"application/json"], self
        found = json.loads(self.body)["error"]
        assert set(found) == {"message", "type", "param", "code"}, found
        return dict(found)


class Client:
    """A raw client. `read_response` understands interim responses, lengths and chunks; `rest` reads until the end."""

    def __init__(self, port: int, timeout_s: float = DEADLINE_S, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(timeout_s)
        self.sock.connect(("127.0.0.1", port))
        self.buffer = b""
        self.interim: list[int] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.sock.sendall(part)

    def read(self) -> bytes:
        """The next bytes; empty at the end."""
        return self.sock.recv(65536)

    def read_until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`; what follows stays."""
        while mark not in self.buffer:
            data = self.read()
            assert data, f"the end came before {mark!r}: {self.buffer!r}"
            self.buffer += data
        found, _, rest = self.buffer.partition(mark)
        self.buffer = rest
        return found + mark

    def read_head(self) -> bytes:
        return self.read_until(b"\r\n\r\n")

    def read_response(self, *, method: str = "POST") -> ReceivedResponse:
        """One final response, whole or not. Raises ConnectionResetError if it was reset."""
        while True:
            head = self.read_head()
            status = int(head.split(b" ", 2)[1])
            if status >= 200:
                break
            self.interim.append(status)
        found = ReceivedResponse(status)
        parser = httptools.HttpResponseParser(found)
        parser.feed_data(head)
        if method == "HEAD" or status in (204, 304):
            found.complete = True
        length = found.get(b"content-length")
        chunked, framing = found.get(b"transfer-encoding") == [b"chunked"], Chunked()
        while not found.complete:
            data, self.buffer = self.buffer, b""
            if not data:
                data = self.read()
                if not data:
                    break
            if length and not chunked:
                wanted = int(length[0]) - len(found.body)
                self.buffer = data[wanted:]
                data = data[:wanted]
            elif chunked:
                size = framing.feed(data)
                data, self.buffer = data[:size], data[size:]
            parser.feed_data(data)
        return found

    def rest(self) -> bytes:
        """Everything up to the connection's end. Raises ConnectionResetError if it was reset."""
        parts = [self.buffer]
        while data := self.read():
            parts.append(data)
        self.buffer = b""
        return b"".join(parts)

    def is_closed(self) -> bool:
        """Does the connection end here, without more bytes? Waits for its end."""
        try:
            return not self.rest()
        except ConnectionResetError:
            return True

    def reset(self) -> None:
        reset(self.sock)
        self.sock.close()


def reset(sock: Any) -> None:
    """Make the next close an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class FakeTransport(asyncio.Transport):
    """A transport that records what is written. unsent: bytes that it reports as not sent yet."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unsent = 0
        self.state = "open"
        self.reading = True

    @property
    def output(self) -> bytes:
        return b"".join(self.written)

    def write(self, data: Piece) -> None:
        assert self.state != "half", "written behind write_eof"
        if self.state == "open":
            self.written.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Piece]) -> None:
        for piece in list_of_data:
            self.write(piece)

    def write_eof(self) -> None:
        self.state = "half"

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return None

    def is_closing(self) -> bool:
        return self.state in ("closed", "aborted")

    def close(self) -> None:
        if self.state != "aborted":
            self.state = "closed"

    def abort(self) -> None:
        self.state = "aborted"

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
