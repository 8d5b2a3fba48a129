"""How an answer ends that was cut after its first byte: with an error that its reader can see, in good framing."""

from __future__ import annotations

from hierarchy.errors import RequestError
from hierarchy.http.dialect import Dialect
from hierarchy.http.framing import Length
from hierarchy.http.response_head import Answer


def error_tail(error: RequestError, dialect: Dialect, answer: Answer, *, rechunked: bool, raw: bool) -> bytes | None:
    """The bytes that end a stream with an error event; None where its form has no place for one.

    rechunked: the client gets chunks of our own making. raw: it gets no framing at all, until the connection closes.
    """
    head = answer.head
    if not head.is_plain or not (head.is_event_stream if dialect.form == "events" else dialect.form == "frames"):
        return None
    event = dialect.error_event(error)
    if rechunked:
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
    if raw:
        return event
    if isinstance(answer.framing, Length):
        return None
    mended = answer.framing.mend(dialect.filler)
    return None if mended is None else b"%b%x\r\n%b\r\n0\r\n\r\n" % (mended, len(event), event)
