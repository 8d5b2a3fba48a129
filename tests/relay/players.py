"""Clients with many requests and the responses of an engine, for the state machines. All in memory."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

import httptools
from hypothesis import settings
from hypothesis import strategies as st

from tests.relay.memory import Link
from tests.relay.raw import HEALTH, SSE_HEAD, ReceivedResponse, chunk, event, http_response, post, post_head

OK_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
RUNS = settings(max_examples=60, stateful_step_count=30)
pieces = st.lists(st.just(10_000) | st.integers(1, 60), min_size=1, max_size=6)


def request(kind: str, number: int) -> bytes:
    body = b'{"model":"m","n":%d}' % number
    if kind == "chunked":
        return post_head(b"transfer-encoding: chunked") + chunk(body[:5]) + chunk(body[5:]) + chunk(b"")
    if kind == "app":
        return HEALTH
    return post(b"{}" if kind == "bad" else body, path=b"/worker_generate_stream" if kind == "fastchat" else b"/v1/x")


def number_of(received: bytes) -> int:
    """Of a request as the engine got it: exactly one, whole, with a length."""
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    assert length is not None
    assert len(body) == int(length[1])
    return int(json.loads(body)["n"])


@dataclass
class Request:
    """One of a client's. end: where it ends in the client's bytes. late: time passed while it came in."""

    kind: str
    number: int
    end: int
    late: bool = False


@dataclass
class Peer:
    """A client: all bytes that it will send, and how many of them it has sent."""

    link: Link
    wire: bytes = b""
    sent: int = 0
    requests: list[Request] = field(default_factory=list)
    paused: bool = False

    def send(self, size: int) -> None:
        if self.link.transport.state == "open" and self.link.transport.reading:
            data = self.wire[self.sent : self.sent + size]
            self.sent += len(data)
            self.link.feed(data)

    def pause(self) -> None:
        self.paused, self.link.transport.unsent = True, 5000
        self.link.protocol.pause_writing()

    def resume(self) -> None:
        self.paused, self.link.transport.unsent = False, 0
        self.link.protocol.resume_writing()

    def responses(self) -> list[ReceivedResponse]:
        """The responses that the client has received so far, by a strict parser."""
        return ResponseReader(self.link.transport.output).found


class ResponseReader:
    """Parses one response after the other."""

    def __init__(self, data: bytes) -> None:
        self.found: list[ReceivedResponse] = []
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.found.append(ReceivedResponse())

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found[-1].on_header(name, value)

    def on_headers_complete(self) -> None:
        self.found[-1].status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.found[-1].on_body(data)

    def on_message_complete(self) -> None:
        self.found[-1].on_message_complete()


@dataclass
class Play:
    """The engine's response to one request. body: its content, without framing. done: all of it is sent."""

    number: int
    kind: str = ""
    body: bytes = b""
    wire: bytes = b""
    sent: int = 0
    done: bool = False

    def begin(self, kind: str, attempt: int) -> None:
        events = [event(f"{self.number}.{attempt}.{count}") for count in range(3)]
        self.kind, self.body = kind, b"".join(events)
        if kind in ("length", "interim", "closing"):  # without a content type, as FastChat's workers send frames
            self.body = b"".join([b'{"text": "%d.%d.%d"}\0' % (self.number, attempt, count) for count in range(3)])
        self.wire = {
            "length": http_response(self.body),
            "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + http_response(self.body),
            "closing": http_response(self.body, b"connection: close"),
            "chunked": SSE_HEAD + b"".join(map(chunk, events)) + chunk(b""),
            "until-close": OK_HEAD + b"\r\n" + self.body,
        }[kind]
