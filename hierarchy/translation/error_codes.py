"""What FastChat's error codes are in OpenAI's words, and the other way round.

Source: FastChat, fastchat/constants.py `ErrorCode`; TinyChat's controller has 2 (no worker) and 3 (timeout).
"""

from __future__ import annotations

from typing import Any

import msgspec

from hierarchy.translation.response import excerpt

_STATUS = {2: 503, 3: 504, 40301: 404, 50002: 503, 50005: 503, 50006: 504}
_TYPES = {400: "invalid_request_error", 404: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error"}
_CODES = {404: 40301, 429: 42901, 401: 40101, 403: 40103}


def status_of(code: int) -> int:
    """The HTTP status for an error_code."""
    return _STATUS.get(code) or (400 if 40000 <= code < 42900 else 429 if 42900 <= code < 43000 else 502)


def openai_error(message: str, status: int) -> dict[str, Any]:
    """OpenAI's error object for what an engine said."""
    kind = _TYPES.get(status) or ("timeout_error" if status == 504 else "upstream_error")
    kind = "invalid_request_error" if status < 500 and status != 429 else kind
    return {"error": {"message": message, "type": kind, "param": None, "code": "engine_error"}}


def fastchat_error(message: str, status: int) -> dict[str, Any]:
    """FastChat's object for an error that an engine answered with an HTTP status."""
    return {"text": message, "error_code": _CODES.get(status) or (40302 if 400 <= status < 500 else 50001)}


class _Error(msgspec.Struct):
    message: str = ""


class _Answer(msgspec.Struct):
    error: _Error | str | None = None
    message: str = ""
    detail: str = ""


def message_of(body: bytes) -> str:
    """The words in an engine's error answer: OpenAI's object, or whatever else it sent."""
    try:
        said = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return excerpt(body)
    error = said.error.message if isinstance(said.error, _Error) else said.error
    return error or said.message or said.detail or excerpt(body)
