"""The tree of errors: it is the documented one, and renders as each kind of client needs it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeVar

import pytest

from hierarchy import errors
from hierarchy.errors import (
    BadRequest,
    ChildFailed,
    HierarchyError,
    InvalidField,
    RequestError,
    Unavailable,
    UnknownDispatchMethod,
    UsageError,
)

E = TypeVar("E", bound=HierarchyError)


def below(kind: type[E]) -> Iterator[type[E]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from below(child)


REQUEST_ERRORS = [kind for kind in below(RequestError) if kind is not InvalidField]


def test_the_documented_tree_is_the_real_one() -> None:
    rows = re.findall(r"[├└]── (\w+)(?: +(\d{3}))?", errors.__doc__ or "")
    documented = dict(rows)
    assert documented.keys() == {kind.__name__ for kind in below(HierarchyError)}
    assert all(kind.__doc__ for kind in below(HierarchyError))
    for kind in below(RequestError):
        assert documented[kind.__name__] == str(kind.status)


@pytest.mark.parametrize("kind", REQUEST_ERRORS, ids=lambda kind: kind.__name__)
def test_every_request_error_renders_for_both_kinds_of_client(kind: type[RequestError]) -> None:
    error = kind("what, where, how to fix it")
    body = error.openai()["error"]
    assert body == {"message": str(error), "type": kind.type, "param": error.param, "code": kind.code}
    assert kind.code != RequestError.code
    assert error.fastchat() == {"text": str(error), "error_code": kind.fastchat_code}
    assert kind.fastchat_code > 0


def test_codes_and_statuses_distinguish_errors() -> None:
    kinds: list[type[RequestError]] = [*REQUEST_ERRORS, InvalidField]
    assert len({kind.code for kind in kinds}) == len(kinds)
    others = [
        kind for kind in kinds if kind.status not in (401, 403, 404, 409, 429, 503)
    ]  # those mean more than one thing
    assert len({kind.status for kind in others}) == len(others)


def test_errors_that_pass_by_themselves_have_a_retry_after() -> None:
    passing = {
        "Unavailable", "RequirementUnmet", "MemoryFull", "OutOfConnections", "TooMuchInFlight", "TooManyMessages"
    }  # fmt: skip
    assert {kind.__name__ for kind in REQUEST_ERRORS if kind.retry_after_s} == passing


def test_the_param_is_the_field_that_is_wrong() -> None:
    assert InvalidField("speed", "is missing").openai()["error"]["param"] == "speed"
    assert str(InvalidField("speed", "is missing")) == "speed: is missing"
    assert BadRequest("no").param is None
    assert Unavailable("no").param is None


@pytest.mark.parametrize(
    ("kind", "anthropic"),
    [(BadRequest, "invalid_request_error"), (ChildFailed, "api_error"), (Unavailable, "overloaded_error")],
)
def test_anthropics_types_follow_from_the_status(kind: type[RequestError], anthropic: str) -> None:
    assert kind("no").anthropic() == {"type": "error", "error": {"type": anthropic, "message": "no"}}


def test_an_unknown_dispatch_method_is_a_usage_error_and_a_value_error() -> None:
    assert issubclass(UnknownDispatchMethod, UsageError)
    assert issubclass(UnknownDispatchMethod, ValueError)
