"""What an engine says in an error response, whatever form that has.

    {"error": {"message": TEXT}}                     OpenAI, vLLM, llama.cpp, Anthropic
    {"object": "error", "message": TEXT, "code": N}  SGLang, LMDeploy, older releases of vLLM
    {"detail": TEXT}, {"detail": [{loc, msg}, …]}    FastAPI, and so most engines in Python
    {"error": TEXT}                                  TGI, Ollama
    {"text": TEXT, "error_code": N}                  FastChat
    an HTML page, text, nothing                      a proxy in front of the engine

Each of them may be an event of a stream, or a frame, or be cut off.
"""

from __future__ import annotations

import html
import re
from typing import Any, Final

import msgspec

MAX_TEXT: Final = 1000  # characters
MAX_READ: Final = 64 * 1024  # bytes of a body that are looked at
_MAX_DEPTH: Final = 8
_MAX_ITEMS: Final = 5  # of a list of errors
#: fields that hold the text, or an object or a list in which it is; the first one that is not empty counts
_FIELDS: Final = ("message", "msg", "detail", "error", "text", "errors", "title", "reason")
#: fields whose number may be an HTTP status
_CODES: Final = ("status", "status_code", "code")
_EVENT_DATA: Final = re.compile(rb"(?m)^data:[ ]?([^\r\n]*)").findall
_FIELD: Final = re.compile(rb'"(?:message|msg|detail|error|text)"\s*:\s*"((?:[^"\\]|\\.)*)').search
_TITLE: Final = re.compile(r"(?i)<title[^<>]*>([^<]*)").search
_TAG: Final = re.compile(r"<[^<>]*>").sub


def decode_error(body: bytes) -> Any:
    """The JSON in an error response, also if it is an event or a frame; None if there is none.

    Only `MAX_READ` bytes are looked at.
    """
    body = body[:MAX_READ].strip(b" \t\r\n\0")
    for text in [body, *_EVENT_DATA(body)]:
        try:
            return msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
    return None


def error_text(body: bytes) -> str:
    """What the engine says, on one line of at most `MAX_TEXT` characters; "" if it says nothing."""
    body = body[:MAX_READ]
    return _on_one_line(_said_in(decode_error(body), 0) or _said_in_text(body))


def reports_error(body: bytes) -> bool:
    """Is it an error in any of these forms, whatever the status beside it is?"""
    decoded = decode_error(body)
    if not isinstance(decoded, dict):
        return False
    return bool(decoded.get("error")) or decoded.get("object") == "error" or "detail" in decoded


def error_status(status: int, body: bytes) -> int:
    """The HTTP status of an engine's error: its response's, or one that the body has beside a status below 400.

    502 if neither has one.
    """
    if status >= 400:
        return status
    decoded = decode_error(body)
    inner = decoded.get("error") if isinstance(decoded, dict) else None
    for fields in (inner, decoded):
        if isinstance(fields, dict):
            for name in _CODES:
                number = fields.get(name)
                if isinstance(number, int) and 400 <= number < 600:
                    return number
    return 502


def _said_in(value: Any, depth: int) -> str:
    if isinstance(value, str) or depth > _MAX_DEPTH:
        return value.strip() if isinstance(value, str) else ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_said_in(item, depth + 1) for item in value[:_MAX_ITEMS])))
    if not isinstance(value, dict):
        return ""
    found = next(filter(None, (_said_in(value.get(name), depth + 1) for name in _FIELDS)), "")
    place = value.get("loc")
    if found and isinstance(place, list):  # FastAPI: where in the request the mistake is
        return f"{'.'.join(map(str, place))}: {found}"
    return found


def _said_in_text(body: bytes) -> str:
    """In something that is not JSON, or in JSON of an unknown form."""
    if body.lstrip()[:1] == b"<":
        page = body.decode(errors="replace")
        title = _TITLE(page)
        return html.unescape(title[1] if title is not None and title[1].strip() else _TAG(" ", page))
    found = _FIELD(body)  # of JSON that is cut off
    if found is not None:
        return _unescaped(found[1])
    return body.strip(b" \t\r\n\0").decode(errors="replace")


def _unescaped(inside: bytes) -> str:
    """What is between the quotes of a JSON string that may be cut off."""
    try:
        return str(msgspec.json.decode(b'"%b"' % inside))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return inside.decode(errors="replace")


def _on_one_line(text: str) -> str:
    line = " ".join(text[: 4 * MAX_TEXT].split())
    line = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in line)
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"
