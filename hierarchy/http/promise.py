"""What a client was promised before any child had answered, and how what then comes is made to keep it. Pure.

A client that waits for the first token of a stream receives a head and then comments, so that no proxy in between gives
up. The head promises:

    status 200        whatever the child answers, so an error can only be an event
    the content type  of the dialect's stream, so an answer in another form has to become one
    no coding         so a compressed body is decompressed
    chunks            of this node's own, unless the child sends chunks; none at all for HTTP/1.0

A child's response therefore ends up in one of four ways, by `Promise.fate`:

    as_it_comes   a stream of that form
    as_events     an answer that is whole, since its engine ignores `stream`: it becomes the events of a stream
    as_error      a refusal in whatever form: it becomes an error event with the engine's status and text
    broken        no form that any client of this path can read, such as audio: it becomes an error of this node

Only one response follows a promise, and `end` is the last thing that is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from hierarchy.errors import ChildFailed, RequestError
from hierarchy.http.content_coding import decoded, decoder
from hierarchy.http.dialect import Dialect
from hierarchy.http.framing import LAST_CHUNK, Dechunker, chunk
from hierarchy.http.request_head import Fields
from hierarchy.http.response_head import ResponseHead
from hierarchy.translation.error_text import reports_error
from hierarchy.translation.whole_answer import events_of

# Seconds between comments, as the HTML standard advises for server-sent events ("every 15 seconds or so", against
# proxies with short timeouts). Not Final: tests replace it.
COMMENT_EVERY_S = 15.0
Fate = Literal["as_it_comes", "as_events", "as_error", "broken"]

MAX_ANSWER: Final = 2 * 1024 * 1024  # bytes of an answer that is made a stream; it is in memory until it is whole
MAX_LOOK: Final = 4096  # bytes of content that are looked at to tell what a response is
#: the fields of an event, with which a stream begins whatever its content type says
BLANKS: Final = b" \t\r\n\xef\xbb\xbf"
_EVENT_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


class _Body(msgspec.Struct):
    """All other fields are skipped."""

    stream: msgspec.Raw = msgspec.Raw()
    stream_format: msgspec.Raw = msgspec.Raw()


_decode_body: Final = msgspec.json.Decoder(_Body).decode


def asks_for_stream(body: bytes, dialect: Dialect) -> bool:
    """Does the client expect a stream in a form that has a place for comments? body: of its request."""
    if dialect.streams_if in ("never", "always"):
        return dialect.streams_if == "always"
    try:
        found = _decode_body(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    if dialect.streams_if == "stream":
        return bytes(found.stream) == b"true"
    return bytes(found.stream_format) == b'"sse"'


@dataclass(frozen=True, slots=True)
class Promise:
    """What the early head said. close: the connection ends with the response."""

    dialect: Dialect
    http10: bool
    close: bool

    # -- what is written -----------------------------------------------------------------------------------------

    def head(self, fields: Fields) -> bytes:
        """The promise itself. fields: added unchanged (date, server)."""
        own = [(b"content-type", self.dialect.stream_type), (b"cache-control", b"no-cache")]
        if not self.http10:
            own.append((b"transfer-encoding", b"chunked"))
        if self.close:
            own.append((b"connection", b"close"))
        return b"HTTP/1.1 200 OK\r\n" + b"".join([b"%b: %b\r\n" % field for field in [*fields, *own]]) + b"\r\n"

    def comment(self) -> bytes:
        """What clients skip; it follows the head."""
        return self.piece(self.dialect.comment)

    def piece(self, content: bytes) -> bytes:
        """Part of the body."""
        return content if self.http10 or not content else chunk(content)

    def end(self, content: bytes = b"") -> bytes:
        """The last part of the body, and its end."""
        return self.piece(content) + (b"" if self.http10 else LAST_CHUNK)

    def error(self, error: RequestError) -> bytes:
        """The end: an error of this node."""
        return self.end(self.dialect.error_event(error))

    # -- what comes ----------------------------------------------------------------------------------------------

    def fate(self, head: ResponseHead, first: bytes, *, is_error: bool = False) -> Fate:
        """What becomes of a child's response.

        first: the first bytes of its body, chunk framing included. is_error: they are an error, in some form.
        """
        if head.status >= 300 or head.kind == "none":
            return "as_error"
        if head.coding and decoder(head.coding) is None:
            return "broken"
        if self.dialect.form == "frames":
            return "as_it_comes"  # workers send no content type
        content = decoded(head.coding, without_chunks(head, first), MAX_LOOK).lstrip(BLANKS)
        if head.is_event_stream or content.startswith(_EVENT_FIELDS):  # engines may have another content type, or none
            return "as_error" if is_error and not self.dialect.reads(content) else "as_it_comes"
        if head.media_type == b"application/json" or content.startswith(b"{"):
            return "as_error" if is_error or self.dialect.answer_form is None else "as_events"
        return "broken"

    def fit(self, engine: str, head: ResponseHead, body: bytes) -> bytes:
        """A whole response that cannot pass as it comes, as the end of the stream that was promised.

        engine: its path. body: without chunk framing; what is missing at its end was cut off.
        """
        body = decoded(head.coding, body, MAX_ANSWER)
        events = self.events(head, body)
        if events is not None:
            return self.end(events)
        if head.status >= 300 or head.kind == "none" or reports_error(body):
            return self.end(self.dialect.refusal(engine, head.status, body))
        return self.error(too_long(engine, head) if len(body) >= MAX_ANSWER else unfit(engine, head))

    def events(self, head: ResponseHead, body: bytes) -> bytes | None:
        """The stream in place of an answer that is whole; None if it is not an answer. body: its content."""
        form = self.dialect.answer_form
        return events_of(form, body) if form is not None and head.status < 300 else None


def unfit(engine: str, head: ResponseHead) -> ChildFailed:
    """The error for a response that no client of this path can read. engine: its path."""
    if head.coding and decoder(head.coding) is None:
        coding = head.coding.decode("ascii", "replace")[:40]
        return ChildFailed(f"{engine} answered in the content coding {coding!r}, which it was not asked for")
    kind = head.media_type.decode("ascii", "replace")[:80] or "a body without a content type"
    return ChildFailed(f"{engine} answered {head.status} with {kind} where the request wants a stream of events")


def too_long(engine: str, head: ResponseHead) -> ChildFailed:
    """The error for an answer that is too long to be made a stream. engine: its path."""
    return ChildFailed(f"{engine} answered {head.status} with a very long body that is not a stream")


def without_chunks(head: ResponseHead, data: bytes) -> bytes:
    """The content of a body, or of its beginning."""
    return Dechunker().feed(data) if head.kind == "chunked" else data
