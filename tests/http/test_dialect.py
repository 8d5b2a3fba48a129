"""The dialect of each path: its errors, as bodies and as events."""

from __future__ import annotations

import json

import pytest

from hierarchy.errors import BadRequest, ChildFailed, ModelNotFound, RequestError, Unavailable
from hierarchy.http.dialect import ANTHROPIC, FRAMES, OBJECT, OPENAI, Dialect


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC])
def test_an_error_event_ends_what_was_cut_and_has_the_errors_body_and_its_status(dialect: Dialect) -> None:
    event = dialect.error_event(ChildFailed("gone"))
    assert event.startswith(b"\n\nevent: error\ndata: ")
    body = json.loads(dialect.error(ChildFailed("gone")))
    body["error"]["status"] = 502
    assert json.loads(event.partition(b"data: ")[2]) == body


def test_frames_and_objects_have_fastchats_code() -> None:
    assert json.loads(FRAMES.error(Unavailable("x"))[:-1]) == {"text": "x", "error_code": 50005}
    assert json.loads(OBJECT.error(Unavailable("x"))) == {"text": "x", "error_code": 50005}
    assert FRAMES.as_event(b"{}") == b"\0{}\0"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest("x"), "invalid_request_error"),
        (ModelNotFound("x"), "not_found_error"),
        (Unavailable("x"), "overloaded_error"),
        (ChildFailed("x"), "api_error"),
    ],
)
def test_anthropics_error_types_depend_on_the_status(error: RequestError, kind: str) -> None:
    assert json.loads(ANTHROPIC.error(error)) == {"type": "error", "error": {"type": kind, "message": "x"}}
