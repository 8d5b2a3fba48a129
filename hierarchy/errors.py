"""The tree of errors.

    HierarchyError
    ├── RequestError                    the response to a request: status, OpenAI's type and code, FastChat's code
    │   ├── BadRequest             400  malformed request
    │   │   └── InvalidField       422  a registration or report with a bad field
    │   ├── InvalidApiKey          401  no API key, or one that this node does not know
    │   ├── InvalidToken           401  no token or credential, or one that is not valid
    │   ├── InvalidAdminKey        401  no admin key, or one that this node does not know
    │   ├── ModelNotAllowed        403  the client's key does not allow that model
    │   ├── LabelNotAllowed        403  the request requires a label that its key excludes
    │   ├── PathNotAllowed         403  the client's key does not allow that path, or the node does not relay it
    │   ├── NotPermitted           403  a child uses a name, model or address that it was not given
    │   ├── ForeignOrigin          403  a web page of another origin sent what it may not send
    │   ├── UnknownHost            403  a node without keys is not known by that name
    │   ├── ModelNotFound          404  no child serves that model
    │   ├── UnknownChild           404  no such child is registered
    │   ├── ReceiveTimeout         408  the request did not arrive in time
    │   ├── NameTaken              409  another live child has that name or address
    │   ├── LastEngine             409  to drain it would leave models without an engine
    │   ├── BodyTooLarge           413  the body is over a limit of this node
    │   ├── TooMuchInFlight        429  the requests in progress of one API key hold too much memory
    │   ├── TooManyMessages        429  the messages of one child take too much of this node's time
    │   ├── HeadTooLarge           431  the head is over a limit of this node
    │   ├── NotImplementedHere     501  WebSockets
    │   ├── ChildFailed            502  the child failed
    │   ├── Unavailable            503  children serve the model, or may soon, but none is available now
    │   │   └── RequirementUnmet   503  none of them has the labels that the request requires
    │   ├── MemoryFull             503  all requests in progress hold too much memory
    │   ├── OutOfConnections       503  there are too many connections
    │   ├── DeadlinePassed         504  the request took longer than a timeout of this node
    │   └── LoopDetected           508  the request or registration came back to a node that it has passed
    ├── EngineUnreadable                an engine's response to a probe cannot be understood
    ├── NotJson                         bytes of another machine are not JSON that can be used
    └── UsageError                      bad configuration or command line: one line, exit status 2
        └── UnknownDispatchMethod       the name of a policy that does not exist; also a ValueError

A request error has an HTTP status, the `type` and `code` of OpenAI's error object, and the `error_code` of FastChat's
frame. Only the lane and `api` turn it into a response. Modules with errors of their own derive them from these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

#: Anthropic's error types by status; others follow from the status's class. https://docs.anthropic.com/en/api/errors
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def describe(error: BaseException) -> str:
    """The message of an error; the name of its class if it has none, as some of httpx."""
    return str(error) or type(error).__name__


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it, and the same of the parts of a group, such as one for each address of a host."""
    if error is None:
        return
    yield error
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from causes(one)
    yield from causes(error.__cause__ or error.__context__)


class HierarchyError(Exception):
    """Base of all errors that this package raises on purpose. `str(error)` says what, where, and how to fix it."""

    @property
    def lines(self) -> list[str]:
        """What the program prints: one line, except for an error that has several problems."""
        return [str(self)]


class RequestError(HierarchyError):
    """An error that is the response to a request."""

    status: int = 500  #: HTTP status; only an engine's error sets it, and what follows from it, for each object
    type: str = "server_error"  #: of OpenAI's error object
    code: ClassVar[str] = "internal_error"  #: of OpenAI's error object; each class has its own
    fastchat_code: int = 50001  #: `error_code` of FastChat's error frame
    retry_after_s: int | None = None  #: of the `Retry-After` header; None for no such header
    param: str | None = None  #: of OpenAI's error object: the field of the request that is wrong

    def openai(self) -> dict[str, Any]:
        """OpenAI's error object, `{"error": {message, type, param, code}}`."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    def anthropic(self) -> dict[str, Any]:
        """Anthropic's error object, `{"type": "error", "error": {type, message}}`."""
        other = "api_error" if self.status >= 500 else "invalid_request_error"
        kind = _ANTHROPIC_TYPES.get(self.status, other)
        return {"type": "error", "error": {"type": kind, "message": str(self)}}

    def fastchat(self) -> dict[str, Any]:
        """FastChat's error frame, without the NUL at its end."""
        return {"text": str(self), "error_code": self.fastchat_code}


class BadRequest(RequestError):
    """The request is malformed. `param` is the wrong field, if there is one."""

    status = 400
    type = "invalid_request_error"
    code = "bad_request"
    fastchat_code = 40001  # FastChat's VALIDATION_TYPE_ERROR

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidField(BadRequest):
    """A field of a registration or report has a value that is not allowed.

    Args:
        field: its name, which is also `param`.
        reason: what is wrong with it, and how to fix it.
    """

    status = 422
    code = "invalid_field"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}", param=field)
        self.reason = reason


class InvalidApiKey(RequestError):
    """The client sent no API key, or one that this node does not know."""

    status = 401
    type = "invalid_request_error"  # as OpenAI's own
    code = "invalid_api_key"
    fastchat_code = 40102  # FastChat's INCORRECT_AUTH_KEY


class InvalidToken(RequestError):
    """The child sent no token or credential, or one that is malformed, expired, used or revoked."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_token"


class InvalidAdminKey(RequestError):
    """The operator sent no admin key, or one that this node does not know."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_admin_key"


class ModelNotAllowed(RequestError):
    """The client's API key does not allow the model."""

    status = 403
    type = "invalid_request_error"
    code = "model_not_allowed"
    fastchat_code = 40103  # FastChat's NO_PERMISSION
    param = "model"


class PathNotAllowed(RequestError):
    """The client's API key does not allow the path, or the node does not relay it."""

    status = 403
    type = "invalid_request_error"
    code = "path_not_allowed"
    fastchat_code = 40103


class LabelNotAllowed(RequestError):
    """The request requires another value of a label than its API key does."""

    status = 403
    type = "invalid_request_error"
    code = "label_not_allowed"
    fastchat_code = 40103
    param = "x-hierarchy-require"


class NotPermitted(RequestError):
    """A child uses a name, model or address that neither its credential nor the configuration gives it."""

    status = 403
    type = "invalid_request_error"
    code = "not_permitted"


class ForeignOrigin(RequestError):
    """A web page of another origin sent a request that it may not send."""

    status = 403
    type = "invalid_request_error"
    code = "foreign_origin"


class UnknownHost(RequestError):
    """A node without API keys is not known by the name in the request's Host field."""

    status = 403
    type = "invalid_request_error"
    code = "unknown_host"


class ModelNotFound(RequestError):
    """No child serves the model."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"
    fastchat_code = 50005  # FastChat's CONTROLLER_NO_WORKER: it has no code of its own for an unknown model
    param = "model"
    lists_models: bool = False  #: the message has names of models, whoever may use them


class UnknownChild(RequestError):
    """No child of that name is registered."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_child"


class ReceiveTimeout(RequestError):
    """The request was not complete within `receive_timeout_s`."""

    status = 408
    type = "invalid_request_error"
    code = "receive_timeout"


class NameTaken(RequestError):
    """Another live child has the name or the address."""

    status = 409
    type = "invalid_request_error"
    code = "name_taken"


class LastEngine(RequestError):
    """To drain a child would leave models without an available engine. `models`: their names."""

    status = 409
    type = "invalid_request_error"
    code = "last_engine"
    param = "force"

    def __init__(self, message: str, models: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.models = list(models)

    def openai(self) -> dict[str, Any]:
        """OpenAI's error object, with the models beside its own fields."""
        body = super().openai()
        if self.models:
            body["error"]["models"] = self.models
        return body


class BodyTooLarge(RequestError):
    """The body is larger than `max_body_bytes`."""

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class TooMuchInFlight(RequestError):
    """The requests in progress of one API key hold too much of this node's memory."""

    status = 429
    type = "rate_limit_error"
    code = "too_much_in_flight"
    retry_after_s = 1


class TooManyMessages(RequestError):
    """The registrations and reports of one credential take more than their share of this node's time."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_messages"
    retry_after_s = 1

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class HeadTooLarge(RequestError):
    """The head is larger than `max_head_bytes`, or has more fields than `max_head_fields`."""

    status = 431
    type = "invalid_request_error"
    code = "head_too_large"


class NotImplementedHere(RequestError):
    """A WebSocket, which nodes do not relay."""

    status = 501
    type = "invalid_request_error"
    code = "not_implemented"


class ChildFailed(RequestError):
    """The child failed, and retries did not help."""

    status = 502
    type = "upstream_error"
    code = "child_failed"


class Unavailable(RequestError):
    """Children serve the model, or may serve it in a moment, but none is available now.

    Args:
        retry_after_s: whole seconds after which another request is worthwhile.
        patience_s: how long it is worthwhile to hold the request instead; 0 for not at all.
        event: what the log says of all such requests together; "" if each has its own line.
    """

    status = 503
    type = "overloaded_error"
    code = "no_child_available"
    fastchat_code = 50005
    retry_after_s = 1

    def __init__(self, message: str, retry_after_s: int = 1, patience_s: float = 0.0, event: str = "") -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.patience_s = patience_s
        self.event = event


class RequirementUnmet(Unavailable):
    """Children serve the model, but none that has the labels which the request requires."""

    code = "requirement_unmet"


class MemoryFull(RequestError):
    """All requests in progress together hold too much of this node's memory."""

    status = 503
    type = "overloaded_error"
    code = "memory_full"
    fastchat_code = 50005
    retry_after_s = 1


class OutOfConnections(RequestError):
    """There are as many connections as this node may have, or more of one address or child than others leave it."""

    status = 503
    type = "overloaded_error"
    code = "out_of_connections"
    fastchat_code = 50005
    retry_after_s = 1


class DeadlinePassed(RequestError):
    """The request took longer than a timeout of this node."""

    status = 504
    type = "timeout_error"
    code = "deadline_passed"
    fastchat_code = 50006


class LoopDetected(RequestError):
    """The request or the registration came back to a node that it has passed."""

    status = 508
    type = "server_error"
    code = "loop_detected"


class EngineUnreadable(HierarchyError):
    """An engine's response to a probe is not what an engine of its kind sends."""


class NotJson(HierarchyError):
    """What another machine sent is not JSON, or is JSON that no program could use without harm."""


class UsageError(HierarchyError):
    """Bad configuration or command line. The command prints `str(error)` and ends with status 2."""


class UnknownDispatchMethod(UsageError, ValueError):
    """A policy of that name does not exist. FastChat's controller raises `ValueError` here, so this is one too."""
