"""Error objects and codes: from FastChat's to OpenAI's, and back.

Source: FastChat, fastchat/constants.py `ErrorCode`. TinyChat's controller uses 2 (no worker) and 3 (timeout).
"""

from __future__ import annotations

from typing import Any

from hierarchy.errors import RequestError
from hierarchy.translation.error_text import error_status, error_text
from hierarchy.translation.response import INTERNAL_ERROR

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
    message = message or f"the engine answered {status}"
    return {"error": {"message": message, "type": _type(status), "param": None, "code": EngineError.code}}


def fastchat_error(message: str, status: int) -> dict[str, Any]:
    """FastChat's error object for an engine's error. message, status: of the engine's response."""
    return {"text": message or f"the engine answered {status}", "error_code": _fastchat_code(status)}


def _type(status: int) -> str:
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "upstream_error")


def _fastchat_code(status: int) -> int:
    return _CODES.get(status) or (_OUT_OF_RANGE if 400 <= status < 500 else INTERNAL_ERROR)


class EngineError(RequestError):
    """An engine's error in this node's words.

    Args:
        engine: its path, as in x-hierarchy-path.
        status: of its response.
        body: of its response, as much as came of it.
    """

    status = 502
    type = "upstream_error"
    code = "engine_error"

    def __init__(self, engine: str, status: int, body: bytes) -> None:
        text = error_text(body)
        super().__init__(f"{engine} answered {status}{f': {text}' if text else ' without a text'}")
        self.status = error_status(status, body)
        self.type = _type(self.status)
        self.fastchat_code = _fastchat_code(self.status)
