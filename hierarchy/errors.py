"""The one tree of errors.

    HierarchyError
    ├── RequestError            an answer for a client: status, OpenAI type and code, FastChat code
    │   ├── BadRequest          400  malformed request
    │   │   ├── InvalidField    422  a registration or report with a bad field
    │   ├── InvalidApiKey       401  a client without a key that is known here
    │   ├── InvalidToken        401  a child without a token or credential that holds
    │   ├── InvalidAdminKey     401  an operator without a key that is known here
    │   ├── ModelNotAllowed     403  the client's key is not for that model
    │   ├── NotPermitted        403  a child claims what its credential or this node's configuration does not give it
    │   ├── ModelNotFound       404  nobody serves that model
    │   ├── UnknownChild        404  no such child is registered
    │   ├── ReceiveTimeout      408  the request did not come in time
    │   ├── NameTaken           409  another live child holds that name
    │   ├── BodyTooLarge        413
    │   ├── TooManyRequests     429  over a limit of the caller's
    │   ├── HeadTooLarge        431
    │   ├── NotImplementedHere  501  WebSockets
    │   ├── ChildFailed         502  the child broke
    │   ├── Unavailable         503  served, but nobody can take it now
    │   ├── DeadlinePassed      504
    │   └── LoopDetected        508
    ├── EngineUnreadable        an engine's own endpoints did not say what they should
    └── UsageError              bad configuration or command line: one line, exit status 2

Each request error carries its HTTP status, the `type` and `code` of OpenAI's error object, and the `error_code`
of FastChat's frame; the edge (lane and api) renders it, nobody else does.
"""

from __future__ import annotations

from typing import Any, ClassVar


class HierarchyError(Exception):
    """Root of everything this package raises on purpose. `str(error)` says what, where and how to mend it."""


class RequestError(HierarchyError):
    """An error that is the answer to somebody's request."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    fastchat_code: ClassVar[int] = 50001
    retry_after_s: ClassVar[int | None] = None
    param: str | None = None

    def openai(self) -> dict[str, Any]:
        """OpenAI's error object, `{"error": {message, type, param, code}}`."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    def anthropic(self) -> dict[str, Any]:
        """Anthropic's error object, `{"type": "error", "error": {type, message}}`; its types go by the status."""
        kind = _ANTHROPIC.get(self.status) or ("api_error" if self.status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": str(self)}}

    def fastchat(self) -> dict[str, Any]:
        """FastChat's error frame, without its closing NUL."""
        return {"text": str(self), "error_code": self.fastchat_code}


#: https://docs.anthropic.com/en/api/errors
_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class BadRequest(RequestError):
    status = 400
    type = "invalid_request_error"
    code = "bad_request"
    fastchat_code = 40001  # FastChat's VALIDATION_TYPE_ERROR

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidField(BadRequest):
    """A registration or report whose field `param` has a value that is not allowed."""

    status = 422
    code = "invalid_field"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}", param=field)
        self.reason = reason


class InvalidApiKey(RequestError):
    status = 401
    type = "invalid_request_error"  # as OpenAI's own
    code = "invalid_api_key"
    fastchat_code = 40102  # FastChat's INCORRECT_AUTH_KEY


class InvalidToken(RequestError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_token"


class InvalidAdminKey(RequestError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_admin_key"


class ModelNotAllowed(RequestError):
    status = 403
    type = "invalid_request_error"
    code = "model_not_allowed"
    fastchat_code = 40103  # FastChat's NO_PERMISSION
    param = "model"


class NotPermitted(RequestError):
    status = 403
    type = "invalid_request_error"
    code = "not_permitted"


class ModelNotFound(RequestError):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"
    fastchat_code = 50005  # FastChat's CONTROLLER_NO_WORKER: it has no code of its own for an unknown model
    param = "model"


class UnknownChild(RequestError):
    status = 404
    type = "invalid_request_error"
    code = "unknown_child"


class ReceiveTimeout(RequestError):
    status = 408
    type = "invalid_request_error"
    code = "receive_timeout"


class NameTaken(RequestError):
    status = 409
    type = "invalid_request_error"
    code = "name_taken"


class BodyTooLarge(RequestError):
    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class TooManyRequests(RequestError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry_after_s = 1


class HeadTooLarge(RequestError):
    status = 431
    type = "invalid_request_error"
    code = "head_too_large"


class NotImplementedHere(RequestError):
    status = 501
    type = "invalid_request_error"
    code = "not_implemented"


class ChildFailed(RequestError):
    status = 502
    type = "upstream_error"
    code = "child_failed"


class Unavailable(RequestError):
    status = 503
    type = "overloaded_error"
    code = "no_child_available"
    fastchat_code = 50005
    retry_after_s = 1


class DeadlinePassed(RequestError):
    status = 504
    type = "timeout_error"
    code = "deadline_passed"
    fastchat_code = 50006


class LoopDetected(RequestError):
    status = 508
    type = "server_error"
    code = "loop_detected"


class EngineUnreadable(HierarchyError):
    """An engine answered its health, model or metrics endpoint with something that is not what its kind sends."""


class UsageError(HierarchyError):
    """Bad configuration or command line. The command prints `str(error)` and ends with status 2."""
