"""Is a response with status 200 what it claims to be? Judged by its first and its last bytes, and never in between.

A broken engine, or a proxy in front of it, answers 200 with an HTML page, with no body, with bytes that are not JSON,
or with half a body. An engine that fails in the middle of a response can report it only in the body: as an event of the
stream, or as FastChat's `error_code`. None of that may count as a success.

What is read is chunk framing and content together, as it came. A false alarm would be worse than a miss: text that a
model wrote cannot look like an error here, since it is escaped in JSON.

Source: HTML standard, server-sent events; vLLM, `create_streaming_error_response`; llama.cpp, `server_sent_event`;
FastChat, fastchat/constants.py (`ErrorCode`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from hierarchy.http.dialect import Dialect
from hierarchy.http.response_head import EVENTS, JSON, PAGE, UNCHECKED, ResponseHead

TAIL: Final = 8192  # bytes; no more than these are looked at, at the beginning and at the end
#: beside the forms of `response_head`: FastChat's frames, and its objects
FRAMES: Final = 4
OBJECT: Final = 5
_BLANK: Final = b" \t\r\n"
_BOM: Final = b"\xef\xbb\xbf"
#: the beginning of a chunked body: the size of the first chunk
_FIRST_SIZE: Final = re.compile(rb"([0-9A-Fa-f]+)[^\r\n]*\r\n").match
#: the end of a chunked body: the end of the content, the last chunk, trailers
_LAST_CHUNK: Final = re.compile(rb"(?:\r\n|\A)0+(?:;[^\r\n]*)?\r\n(?:[^\r\n]+\r\n)*\r\n\Z").search
_ERROR: Final = rb'\{\s*"(?:error"\s*:\s*[{"]|object"\s*:\s*"error")'
_ERROR_LINE: Final = rb"(?:event: ?(?:error|response\.failed)\b|error: ?\{|data: ?%b)" % _ERROR
_ERROR_OBJECT: Final = re.compile(_ERROR).match
_ERROR_EVENT_FIRST: Final = re.compile(rb"\s*" + _ERROR_LINE).match
_ERROR_EVENT: Final = re.compile(rb"[\r\n]" + _ERROR_LINE).search
_ERROR_CODE: Final = re.compile(rb'"error_code"\s*:\s*([1-9][0-9]*)').search
#: the code of an error that is the request's fault
_CLIENT_CODE: Final = re.compile(rb'"(?:code|status)"\s*:\s*"?4[0-9][0-9]\b').search
_MESSAGE: Final = re.compile(rb'"(?:message|text)"\s*:\s*"((?:[^"\\]|\\.)*)"').search
_ENDS: Final = {0x7B: 0x7D, 0x5B: 0x5D, 0x22: 0x22}  # { }  [ ]  " "
_JSON_BEGINS: Final = frozenset(b'{["-0123456789tfn\xef')  # the last begins a BOM
_TEXT: Final = frozenset(range(0x20, 0x7F)) | frozenset(b"\t\r\n\xef")  # the beginning of a field or a comment


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a response."""

    reason: str  # a sentence without its subject, the child
    reported: bool = False  # the engine itself says so, in a form that its client can read
    is_client_fault: bool = False  # the error that it reports is the request's
    is_late: bool = False  # what came before it, in the same read, is good


def looks_good(head: ResponseHead, body: bytes) -> bool:
    """Needs a whole response no closer look? The common case, which costs three comparisons."""
    form, size = head.form, len(body)
    if form == UNCHECKED:
        return True
    # The third byte of {"error": …} is an e.
    return form == JSON and size > 2 and body[0] == 0x7B and body[2] != 0x65 and body[size - 1] == 0x7D


def first_problem(head: ResponseHead, dialect: Dialect, data: bytes, *, whole: bool) -> Problem | None:
    """What is wrong with a response, as far as its first bytes tell. whole: they are all of its body."""
    form = _form(head, dialect)
    if form == UNCHECKED:
        return None
    if form == PAGE:
        return Problem("answered with an HTML page")
    content = _content_begins(head, data)
    if not content.strip(_BLANK):
        return Problem("answered with an empty body") if whole else None
    if form == EVENTS:
        problem = _first_of_events(content)
    else:
        problem = _first_of_frames(content) if form == FRAMES else _first_of_json(content)
    if problem is not None or not whole:
        return problem
    problem = last_problem(head, dialect, data, data)
    if problem is None or form not in (EVENTS, FRAMES):
        return problem
    return Problem(problem.reason, problem.reported, problem.is_client_fault, is_late=True)


def last_problem(head: ResponseHead, dialect: Dialect, first: bytes, tail: bytes) -> Problem | None:
    """What is wrong with a complete response, as far as its last bytes tell.

    first: bytes with which its body began. tail: its last ones.
    """
    form, content = _form(head, dialect), _content_ends(head, tail[-TAIL:])
    if not content or form in (UNCHECKED, PAGE):
        return None
    if form == EVENTS:
        return _last_of_events(content)
    if form == FRAMES:
        return _last_of_frames(content)
    return _last_of_json(_content_begins(head, first), content, has_code=form == OBJECT)


def _form(head: ResponseHead, dialect: Dialect) -> int:
    form = head.form
    if dialect.api == "openai":
        return form
    if dialect.form == "object":
        return OBJECT if form == JSON else form
    if form == EVENTS:
        return UNCHECKED  # not FastChat's form
    return FRAMES if form != PAGE and head.status == 200 and head.is_plain else form  # workers send no content type


def _content_begins(head: ResponseHead, data: bytes) -> bytes:
    """The first bytes of the content."""
    begin, end = 0, TAIL
    if head.kind == "chunked":
        size = _FIRST_SIZE(data)
        if size is None:
            return b""
        begin = size.end()
        end = begin + min(int(size[1], 16), TAIL)
    return data[begin:end].removeprefix(_BOM)


def _content_ends(head: ResponseHead, tail: bytes) -> bytes:
    """The last bytes of the content, without the end of the framing."""
    if head.kind != "chunked":
        return tail
    end = _LAST_CHUNK(tail)
    return tail if end is None else tail[: end.start()]


def _first_of_json(content: bytes) -> Problem | None:
    content = content.lstrip(_BLANK)
    if content[0] not in _JSON_BEGINS:
        return Problem("answered with something else than JSON")
    return _reported(content) if _ERROR_OBJECT(content) else None


def _last_of_json(begin: bytes, content: bytes, *, has_code: bool) -> Problem | None:
    """has_code: it is FastChat's object, in which a failure has an `error_code`."""
    begin, content = begin.lstrip(_BLANK), content.rstrip(_BLANK)
    if begin and content:
        last = content[len(content) - 1]
        if _ENDS.get(begin[0], last) != last:
            return Problem("answered with JSON that is cut off")
    return _with_code(content) if has_code else None


def _first_of_events(content: bytes) -> Problem | None:
    if content[0] not in _TEXT or content[0] in b"<{[":
        return Problem("answered with something else than events")
    return _reported(content) if _ERROR_EVENT_FIRST(content) else None


def _last_of_events(content: bytes) -> Problem | None:
    found = _ERROR_EVENT(content)
    if found is not None:
        return _reported(content[found.start() :])
    return None if content.endswith((b"\n", b"\r", b"[DONE]")) else Problem("ended its stream inside an event")


def _first_of_frames(content: bytes) -> Problem | None:
    frame = content.lstrip(b"\0 \t\r\n")
    if frame and frame[0] != 0x7B:
        return Problem("answered with something else than frames")
    return _with_code(frame.partition(b"\0")[0])


def _last_of_frames(content: bytes) -> Problem | None:
    if content[len(content) - 1] != 0:
        return Problem("ended its stream inside a frame")
    return _with_code(content.rstrip(b"\0").rpartition(b"\0")[2])


def _with_code(frame: bytes) -> Problem | None:
    found = _ERROR_CODE(frame)
    if found is None:
        return None
    code: bytes = found[1]
    return _reported(frame, is_client_fault=len(code) == 5 and code.startswith(b"4"))


def _reported(content: bytes, *, is_client_fault: bool | None = None) -> Problem:
    message = _MESSAGE(content)
    text = "" if message is None else ": " + message[1][:200].decode("utf-8", "replace")
    if is_client_fault is None:
        is_client_fault = _CLIENT_CODE(content) is not None
    return Problem(f"reported an error{text}", reported=True, is_client_fault=is_client_fault)
