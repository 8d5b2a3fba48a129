"""How an answer ends that was cut after its first byte: with an error that its reader can see, in good framing."""

from __future__ import annotations

from hierarchy.errors import RequestError
from hierarchy.relay import render
from hierarchy.relay.answer import Answer
from hierarchy.relay.framing import Length
from hierarchy.status import Api


def error_tail(error: RequestError, api: Api, answer: Answer, *, rechunked: bool, raw: bool) -> bytes | None:
    """The bytes that end a stream with an error event; None where its form has no place for one.

    rechunked: the client gets chunks of our own making. raw: it gets no framing at all, until the connection closes.
    """
    if not answer.head.is_plain:
        return None
    if api == "fastchat":
        filler, event = b"\0", render.fastchat_event(error)
    elif answer.head.is_event_stream:
        filler, event = b"\n", render.sse_event(error)
    else:
        return None
    if rechunked:
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
    if raw:
        return event
    if isinstance(answer.framing, Length):
        return None
    mended = answer.framing.mend(filler)
    return None if mended is None else b"%b%x\r\n%b\r\n0\r\n\r\n" % (mended, len(event), event)
