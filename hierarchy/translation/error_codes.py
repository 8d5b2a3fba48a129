"""Error objects and codes: from FastChat's to OpenAI's, and back.

Source: FastChat, fastchat/constants.py `ErrorCode`. TinyChat's controller uses 2 (no worker) and 3 (timeout).
"""

from __future__ import annotations

from typing import Any

import msgspec

from hierarchy.translation.response import INTERNAL_ERROR, excerpt

#: error_code → HTTP status, where the ranges in `http_status` do not say it
_STATUS = {2: 503, 3: 504, 40301: 404, 50002: 503, 50005: 503, 50006: 504}
#: HTTP status → `type` of OpenAI's error object
_TYPES = {429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error"}
#: HTTP status → error_code
_CODES = {404: 40301, 429: 42901, 401: 40101, 403: 40103}
_OUT_OF_RANGE = 40302  # for any other 4xx


def http_status(error_code: int) -> int:
    """The HTTP status for a FastChat error_code."""
    if error_code in _STATUS:
        return _STATUS[error_code]
    if 40000 <= error_code < 42900:
        return 400
    return 429 if 42900 <= error_code < 43000 else 502


def openai_error(message: str, status: int) -> dict[str, Any]:
    """OpenAI's error object. message: from the engine. status: of the response."""
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "upstream_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": "engine_error"}}


def fastchat_error(message: str, status: int) -> dict[str, Any]:
    """FastChat's error object for an engine's error. message, status: of the engine's response."""
    code = _CODES.get(status) or (_OUT_OF_RANGE if 400 <= status < 500 else INTERNAL_ERROR)
    return {"text": message, "error_code": code}


class _Error(msgspec.Struct):
    message: str = ""


class _ErrorBody(msgspec.Struct):
    error: _Error | str | None = None
    message: str = ""
    detail: str = ""


def error_message(body: bytes) -> str:
    """The message in an engine's error response: OpenAI's object, or the beginning of any other body."""
    try:
        decoded = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return excerpt(body)
    error = decoded.error.message if isinstance(decoded.error, _Error) else decoded.error
    return error or decoded.message or decoded.detail or excerpt(body)
