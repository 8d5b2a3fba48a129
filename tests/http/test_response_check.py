"""Responses with status 200 that are none, told by their first and last bytes; no good one is taken for bad."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.http.dialect import ANTHROPIC, FRAMES, OBJECT, OPENAI, Dialect
from hierarchy.http.framing import Chunked, chunk
from hierarchy.http.response_check import Problem, first_problem, last_problem, looks_good
from hierarchy.http.response_head import UpstreamResponse
from tests.builders import nested, scalars
from tests.relay.raw import event

HTML, JSON, SSE, TEXT = "text/html; charset=utf-8", "application/json", "text/event-stream", "text/plain"
ERROR = {"message": "out of memory", "type": "InternalServerError", "param": None, "code": 500}
VLLM = b'data: {"error": %b}\n\n' % json.dumps(ERROR).encode()


def response(kind: str, *, chunked: bool, status: int = 200, fields: str = "") -> UpstreamResponse:
    framing = "transfer-encoding: chunked" if chunked else "content-length: 1"
    content_type = f"content-type: {kind}\r\n" if kind else ""
    return UpstreamResponse(f"HTTP/1.1 {status} OK\r\n{content_type}{fields}{framing}\r\n\r\n".encode())


def problem(kind: str, body: bytes, dialect: Dialect = OPENAI, pieces: int = 1, **options: Any) -> Problem | None:
    """What is wrong with a body that comes in one chunk, or without chunks, in so many pieces."""
    found = []
    for chunked in (True, False):
        head = response(kind, chunked=chunked, **options).head
        data = chunk(body) * bool(body) + b"0\r\n\r\n" if chunked else body
        size = -(-len(data) // pieces) or 1
        parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        first = first_problem(head, dialect, parts[0], whole=len(parts) == 1)
        found.append(first or (last_problem(head, dialect, parts[0], b"".join(parts[-3:])) if len(parts) > 1 else None))
    assert found[0] == found[1] or pieces > 1
    return found[0]


BAD = {
    "an HTML page": (HTML, b"<!doctype html><h1>Bad gateway</h1>\n", OPENAI, "an HTML page"),
    "an HTML stream": (HTML, b"<html>", ANTHROPIC, "an HTML page"),
    "a page on FastChat's path": (HTML, b"<html>", FRAMES, "an HTML page"),
    "no JSON": (JSON, b"", OPENAI, "an empty body"),
    "blanks": (JSON, b" \n", OPENAI, "an empty body"),
    "an empty stream": (SSE, b"", OPENAI, "an empty body"),
    "no frame": ("", b"", FRAMES, "an empty body"),
    "garbage": (JSON, b"\x00\xff\x1f{]not json\n", OPENAI, "something else than JSON"),
    "a page that claims to be JSON": (JSON, b"<html>", OPENAI, "something else than JSON"),
    "garbage in a stream": (SSE, b"\x00\xff\x1f{]not json\n", OPENAI, "something else than events"),
    "a page that claims to be a stream": (SSE, b"<html>\n", OPENAI, "something else than events"),
    "garbage in frames": ("application/octet-stream", b"\xff\xfe\0", FRAMES, "something else than frames"),
    "half an object": (JSON, b'{"choices": [{"text": "a", ', OPENAI, "cut off"),
    "half an array": (JSON, b"[[0.1, 0.2", OPENAI, "cut off"),
    "half an event": (SSE, event("a") + b'data: {"choi', OPENAI, "inside an event"),
    "half a frame": ("", b'{"text": "a", "error_code": 0}\0{"text": "a', FRAMES, "inside a frame"),
}


@pytest.mark.parametrize(("kind", "body", "dialect", "reason"), BAD.values(), ids=BAD.keys())
def test_a_response_that_is_none_is_found(kind: str, body: bytes, dialect: Dialect, reason: str) -> None:
    found = problem(kind, body, dialect)
    assert found is not None
    assert reason in found.reason
    assert not found.reported


REPORTED = {
    "vLLM": (SSE, VLLM + b"data: [DONE]\n\n", OPENAI),
    "vLLM, after a token": (SSE, event("a") + VLLM + event("[DONE]"), OPENAI),
    "vLLM, older": (SSE, event('{"object":"error","message":"out of memory","code":500}'), OPENAI),
    "llama.cpp": (SSE, event("a") + b'error: {"code":500,"message":"out of memory"}\n\n', OPENAI),
    "a node": (SSE, event("a") + OPENAI.as_event(json.dumps({"error": ERROR}).encode()), OPENAI),
    "Anthropic": (SSE, b'event: error\ndata: {"type":"error","error":{"message":"out of memory"}}\n\n', ANTHROPIC),
    "an object": (JSON, json.dumps({"error": ERROR}).encode(), OPENAI),
    "FastChat": ("", b'{"text": "a", "error_code": 0}\0{"text": "out of memory", "error_code": 50002}\0', FRAMES),
    "FastChat, at once": ("", b'{"text": "out of memory", "error_code": 50002}\0', FRAMES),
    "FastChat, an object": (JSON, b'{"text": "out of memory", "error_code": 50002}', OBJECT),
}


@pytest.mark.parametrize(("kind", "body", "dialect"), REPORTED.values(), ids=REPORTED.keys())
def test_an_error_that_the_engine_reports_is_found(kind: str, body: bytes, dialect: Dialect) -> None:
    found = problem(kind, body, dialect)
    assert found is not None
    assert Problem(found.reason, found.reported, found.is_client_fault) == Problem(
        "reported an error: out of memory", reported=True
    )


@pytest.mark.parametrize(
    ("body", "dialect", "late"),
    [
        (event("a") + VLLM, OPENAI, True),
        (VLLM, OPENAI, False),
        (REPORTED["FastChat"][1], FRAMES, True),
        (REPORTED["FastChat, at once"][1], FRAMES, False),
    ],
)
def test_an_error_behind_good_content_is_late_however_much_came_at_once(
    body: bytes, dialect: Dialect, late: bool
) -> None:
    """Then the client gets both, as it does if they come one by one."""
    head = response(SSE if dialect is OPENAI else "", chunked=False).head
    found = first_problem(head, dialect, body, whole=True)
    assert found is not None
    assert found.is_late is late


@pytest.mark.parametrize(
    ("kind", "body", "dialect"),
    [
        (SSE, VLLM.replace(b"500", b"400"), OPENAI),
        (JSON, json.dumps({"error": {**ERROR, "code": 404}}).encode(), OPENAI),
        ("", b'{"text": "out of memory", "error_code": 40303}\0', FRAMES),
    ],
)
def test_an_error_of_the_request_is_not_the_engine_s(kind: str, body: bytes, dialect: Dialect) -> None:
    found = problem(kind, body, dialect)
    assert found is not None
    assert found.is_client_fault


@pytest.mark.parametrize(
    ("kind", "body", "dialect"),
    [
        (TEXT, b"1\n00:00:00,000 --> 00:00:01,000\nhello", OPENAI),  # a transcription
        ("audio/mpeg", b"\xff\xfb", OPENAI),
        ("", b"hello", OPENAI),
        (SSE, b": ok\n\n" + event("[DONE]"), OPENAI),
        (SSE, b"data: [DONE]", OPENAI),
        (SSE, event('{"error": null, "choices": []}'), OPENAI),
        (JSON, b'{"id": "r", "error": null, "output": []}', OPENAI),
        (JSON, b"\xef\xbb\xbf{}", OPENAI),
        (JSON, b"[0.1]\n", OPENAI),
        (JSON, b'"loaded"', OPENAI),
        (JSON, b"42", OPENAI),
        ("", b'\0\0{"text": "a", "error_code": 0}\0', FRAMES),
        (JSON, b'{"conv": {"name": "one_shot"}}', OBJECT),
    ],
)
def test_a_good_response_has_no_problem(kind: str, body: bytes, dialect: Dialect) -> None:
    assert problem(kind, body, dialect) is None
    assert problem(kind, body, dialect, pieces=3) is None


@pytest.mark.parametrize(("kind", "body", "dialect", "_"), BAD.values(), ids=BAD.keys())
def test_only_status_200_is_looked_at(kind: str, body: bytes, dialect: Dialect, _: str) -> None:
    for status in (400, 404, 413, 500, 503):
        assert problem(kind, body, dialect, status=status) is None
    if kind != HTML:
        assert problem(kind, body, dialect, fields="content-encoding: gzip\r\n") is None


@given(nested(scalars | st.text(max_size=20)), st.integers(1, 9))
def test_no_json_is_taken_for_bad(value: Any, pieces: int) -> None:
    body = json.dumps({"choices": value}).encode()
    assert problem(JSON, body, pieces=pieces) is None
    assert looks_good(response(JSON, chunked=False).head, body)


@given(st.lists(st.text(max_size=60), min_size=1), st.integers(1, 9))
def test_no_text_of_a_model_is_taken_for_an_error(texts: list[str], pieces: int) -> None:
    """Nor if it quotes one: inside JSON it is escaped."""
    quoted = [*texts, VLLM.decode(), "\nevent: error\n", '\ndata: {"error": {', '"error_code": 50001', "\nerror: {"]
    stream = b"".join(event(json.dumps({"choices": [{"text": text}]})) for text in quoted) + event("[DONE]")
    assert problem(SSE, stream, pieces=pieces) is None
    frames = b"".join(json.dumps({"text": text, "error_code": 0}).encode() + b"\0" for text in quoted)
    assert problem("", frames, FRAMES, pieces=1) is None


@given(nested(scalars), st.integers(1, 200))
def test_an_object_that_is_cut_off_is_found(value: Any, cut: int) -> None:
    body = json.dumps({"a": value, "b": "text"}).encode()
    part = body[: -min(cut, len(body) - 1)]
    assert (problem(JSON, part) is None) == (part.rstrip()[-1:] == b"}")


@given(st.binary(max_size=300), st.sampled_from([JSON, SSE, HTML, TEXT, ""]), st.booleans(), st.integers(0, 300))
def test_any_bytes_can_be_judged(data: bytes, kind: str, chunked: bool, cut: int) -> None:
    head = response(kind, chunked=chunked).head
    for dialect in (OPENAI, ANTHROPIC, FRAMES, OBJECT):
        first_problem(head, dialect, data[:cut], whole=False)
        first_problem(head, dialect, data, whole=True)
        last_problem(head, dialect, data[:cut], data[cut:])
    looks_good(head, data)


@given(st.lists(st.integers(0, 40), max_size=8))
def test_trailers_of_a_node_are_for_this_node_alone(cuts: list[int]) -> None:
    body = chunk(b"hello") + b"0\r\nx: y\r\nX-Hierarchy-Outcome:  cut\r\nx-hierarchy-other: z\r\nz: \r\n\r\n"
    tracker, at = Chunked(), 0
    for size in [*cuts, len(body)]:
        tracker.feed(body[at : at + size])
        at += size
        if at >= len(body):
            break
    assert (tracker.done, tracker.outcome, tracker.trailers) == (True, b"cut", b"x: y\r\nz: \r\n")
