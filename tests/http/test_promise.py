"""What the early head promises, and how each response that then comes is made to keep it."""

from __future__ import annotations

import gzip
import json

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import ChildFailed
from hierarchy.http.dialect import (
    ANTHROPIC,
    CHAT,
    COMPLETIONS,
    FRAMES,
    MESSAGES,
    OBJECT,
    OPENAI,
    PATHS,
    RESPONSES,
    SPEECH,
    Dialect,
)
from hierarchy.http.promise import MAX_ANSWER, Fate, Promise, asks_for_stream, unfit
from hierarchy.http.request_head import Fields, lane_path
from hierarchy.http.response_head import UpstreamResponse
from tests.http.test_body_cost import cpu_s
from tests.relay.raw import ReceivedResponse, chunk, event

DATE: Fields = [(b"date", b"now")]
ERROR = ChildFailed("gone")
JSON = b"content-type: application/json\r\n"
SSE = b"content-type: text/event-stream\r\n"
GZIP = b"content-encoding: gzip\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
STREAMING: list[Dialect] = [CHAT, COMPLETIONS, RESPONSES, MESSAGES, FRAMES]


def promise(dialect: Dialect, *, http10: bool = False, close: bool = False) -> Promise:
    return Promise(dialect, http10, close)


def parsed(data: bytes) -> ReceivedResponse:
    """The response in `data`, which has to be exactly one."""
    response = ReceivedResponse()
    parser = httptools.HttpResponseParser(response)
    parser.feed_data(data)
    assert response.complete
    response.status = parser.get_status_code()
    return response


def response(status: int = 200, fields: bytes = b"", length: int = 9) -> UpstreamResponse:
    framing = b"" if CHUNKED in fields else b"content-length: %d\r\n" % length
    return UpstreamResponse(b"HTTP/1.1 %d X\r\n%b%b\r\n" % (status, fields, framing))


def error_in(dialect: Dialect, stream: bytes) -> dict[str, object]:
    """The error with which a stream ends, as its clients read it."""
    if dialect.form == "frames":
        frame = json.loads(stream.strip(b"\0").split(b"\0")[-1])
        assert frame["error_code"] > 0
        return dict(frame)
    name, data = stream.strip().split(b"\n\n")[-1].split(b"\n")
    assert name == b"event: error"
    return dict(json.loads(data.removeprefix(b"data: "))["error"])


# -- which requests get one ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_a_stream_is_one_where_stream_is_true(dialect: Dialect) -> None:
    assert asks_for_stream(b'{"model":"m","stream":true}', dialect)
    for body in (b"{}", b"[]", b"\xff", b'{"stream":1}', b'{"stream":"true"}', b'{"stream":false}', b"[" * 10**5):
        assert not asks_for_stream(body, dialect)
        assert asks_for_stream(body, FRAMES)


def test_speech_has_events_only_where_the_request_names_them() -> None:
    assert asks_for_stream(b'{"stream_format":"sse"}', SPEECH)
    for body in (b'{"stream":true}', b'{"stream_format":"audio"}', b'{"stream_format":true}'):
        assert not asks_for_stream(body, SPEECH)


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/audio/transcriptions",
        b"/v1/audio/translations",
        b"/v1/embeddings",
        b"/v1/images/edits",
        b"/v1/images/generations",
        b"/v1/messages/count_tokens",
        b"/v1/rerank",
        b"/tokenize",
        b"/worker_generate",
    ],
)
def test_other_paths_promise_nothing(path: bytes) -> None:
    found = lane_path(path)
    assert found is not None
    assert not asks_for_stream(b'{"model":"m","stream":true,"stream_format":"sse"}', found[0])


def test_each_path_that_may_promise_has_a_stream_with_a_place_for_comments() -> None:
    for path, dialect in PATHS.items():
        assert dialect.streams_if == "never" or (dialect.comment and dialect.form != "object"), path


# -- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [*STREAMING, SPEECH, OPENAI, ANTHROPIC])
@pytest.mark.parametrize("close", [False, True])
def test_a_stream_that_waits_and_ends_in_an_error(dialect: Dialect, close: bool) -> None:
    made = promise(dialect, close=close)
    found = parsed(made.head(DATE) + made.comment() + made.comment() + made.error(ERROR))
    expected = [
        *DATE,
        (b"content-type", dialect.stream_type),
        (b"cache-control", b"no-cache"),
        (b"transfer-encoding", b"chunked"),
    ]
    assert found.status == 200
    assert found.fields == expected + ([(b"connection", b"close")] if close else [])
    assert found.body == 2 * dialect.comment + dialect.error_event(ERROR)


def test_in_http_10_it_has_no_framing() -> None:
    made = promise(CHAT, http10=True, close=True)
    assert b"transfer-encoding" not in made.head(DATE)
    assert made.comment() == CHAT.comment
    assert made.error(ERROR) == CHAT.error_event(ERROR)
    assert made.end() == b""


# -- what comes ------------------------------------------------------------------------------------------------------

WHOLE = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}]}'
FATES: list[tuple[Dialect, UpstreamResponse, bytes, Fate]] = [
    (CHAT, response(200, SSE), event("a"), "as_it_comes"),
    (CHAT, response(200, SSE + CHUNKED), chunk(event("a")), "as_it_comes"),
    (CHAT, response(201, SSE), event("a"), "as_it_comes"),
    (CHAT, response(200, b"content-type: text/plain\r\n"), event("a"), "as_it_comes"),
    (CHAT, response(200), b": ping\n\n", "as_it_comes"),
    (CHAT, response(200, SSE + GZIP), gzip.compress(event("a"), mtime=0), "as_it_comes"),
    (CHAT, response(200, SSE + b"content-encoding: br\r\n"), b"\x0b", "broken"),
    (CHAT, response(200, JSON), WHOLE, "as_events"),
    (CHAT, response(200, JSON + CHUNKED), chunk(WHOLE), "as_events"),
    (CHAT, response(200), WHOLE, "as_events"),
    (CHAT, response(200, b"content-type: audio/mpeg\r\n"), b"\xff\xfb", "broken"),
    (CHAT, response(200, b"content-type: text/plain\r\n"), b"hello", "broken"),
    (SPEECH, response(200, JSON), b"{}", "as_error"),
    (CHAT, response(204), b"", "as_error"),
    (CHAT, response(307, b"location: http://10.0.0.1/\r\n"), b"", "as_error"),
    (CHAT, response(422, SSE), event("a"), "as_error"),
    (CHAT, response(500, b"content-encoding: br\r\n"), b"x", "as_error"),
    (FRAMES, response(200), b'{"text"', "as_it_comes"),
    (FRAMES, response(422), b'{"detail"', "as_error"),
]


@pytest.mark.parametrize(("dialect", "came", "first", "fate"), FATES)
def test_fates(dialect: Dialect, came: UpstreamResponse, first: bytes, fate: Fate) -> None:
    assert promise(dialect).fate(came.head, first) == fate


def test_an_error_event_passes_only_in_the_form_of_the_dialect() -> None:
    own, foreign = b'data: {"error":{"message":"x"}}\n\n', b'data: {"error":"x"}\n\n'
    for dialect, first, fate in ((CHAT, own, "as_it_comes"), (CHAT, foreign, "as_error"), (MESSAGES, own, "as_error")):
        assert promise(dialect).fate(response(200, SSE).head, first, is_error=True) == fate


@pytest.mark.parametrize("dialect", STREAMING)
@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (JSON, b'{"error":{"message":"BOOM","type":"t","param":null,"code":null}}'),
        (JSON, b'{"type":"error","error":{"type":"invalid_request_error","message":"BOOM"}}'),
        (JSON, b'{"object":"error","message":"BOOM","code":422}'),
        (JSON, b'{"detail":"BOOM"}'),
        (JSON, b'{"detail":[{"loc":["body","messages"],"msg":"BOOM"}]}'),
        (JSON, b'{"error":"BOOM"}'),
        (JSON, b'{"text":"BOOM","error_code":40302}'),
        (b"content-type: text/html\r\n", b"<html><head><title>BOOM</title>"),
        (b"", b"BOOM"),
        (JSON, b'{"error":{"message":"BOOM'),
        (JSON + GZIP, gzip.compress(b'{"detail":"BOOM"}', mtime=0)),
        (JSON + GZIP, gzip.compress(b'{"detail":"BOOM"}', mtime=0)[:-6]),
        (JSON + CHUNKED, chunk(b'{"detail":') + chunk(b'"BOOM"}') + b"0\r\n\r\n"),
        (JSON + CHUNKED, chunk(b'{"detail":') + b"8\r\n" + b'"BOOM'),
        (JSON, b'{"detail":"BOOM' + 10**6 * b"x"),
    ],
)
def test_a_refusal_becomes_an_error_that_clients_of_the_dialect_read(
    dialect: Dialect, fields: bytes, body: bytes
) -> None:
    made = promise(dialect)
    found = parsed(made.head(DATE) + made.comment() + made.fit("site/gpu-1", response(422, fields).head, body))
    error = error_in(dialect, found.body)
    text = str(error["text"] if dialect is FRAMES else error["message"])
    assert "BOOM" in text
    assert len(text) < 1100
    assert dialect is FRAMES or error["status"] == 422
    assert text == "BOOM" or text.startswith("site/gpu-1 answered 422: ")


@pytest.mark.parametrize("dialect", STREAMING)
@pytest.mark.parametrize("status", [204, 307, 404, 500])
def test_a_refusal_that_says_nothing(dialect: Dialect, status: int) -> None:
    error = error_in(
        dialect, parsed(promise(dialect).head([]) + promise(dialect).fit("e", response(status).head, b"")).body
    )
    assert f"e answered {status} without a text" in json.dumps(error)
    assert dialect is FRAMES or error["status"] == (status if status >= 400 else 502)


def test_an_event_of_the_responses_api_has_the_fields_of_its_own_form_too() -> None:
    found = json.loads(RESPONSES.error_event(ERROR).partition(b"data: ")[2])
    assert (found["type"], found["code"], found["message"], found["param"]) == ("error", "child_failed", "gone", None)
    assert found["error"] == {**json.loads(RESPONSES.error(ERROR))["error"], "status": 502}


def test_an_answer_that_is_none_is_an_error() -> None:
    for dialect, body in ((CHAT, b'{"a":1}'), (CHAT, b'{"choices":[]}'), (COMPLETIONS, WHOLE), (SPEECH, b"{}")):
        found = error_in(dialect, promise(dialect, http10=True).fit("e", response(200, JSON).head, body))
        assert found["message"] == "e answered 200 with application/json where the request wants a stream of events"


def test_an_error_with_status_200_has_the_status_in_its_body() -> None:
    body = b'{"object":"error","message":"BOOM","code":404}'
    assert error_in(CHAT, promise(CHAT, http10=True).fit("e", response(200, JSON).head, body))["status"] == 404


def test_what_cannot_be_read_is_named() -> None:
    assert "'br'" in str(unfit("e", response(200, SSE + b"content-encoding: br\r\n").head))
    assert "audio/mpeg" in str(unfit("e", response(200, b"content-type: audio/mpeg\r\n").head))
    assert "without a content type" in str(unfit("e", response(200).head))


@given(
    st.sampled_from([*STREAMING, SPEECH]),
    st.integers(200, 599),
    st.sampled_from([b"", JSON, SSE, b"content-type: text/html\r\n"]),
    st.sampled_from([b"", GZIP, b"content-encoding: deflate\r\n", b"content-encoding: br\r\n"]),
    st.one_of(st.binary(max_size=60), st.from_regex(rb'\{"(error|detail|message|text)": ?.{0,30}', fullmatch=True)),
    st.booleans(),
)
def test_whatever_comes_whole_ends_the_stream_with_an_event(
    dialect: Dialect, status: int, kind: bytes, coding: bytes, body: bytes, http10: bool
) -> None:
    made, head = promise(dialect, http10=http10), response(status, kind + coding).head
    assert made.fate(head, body) in ("as_it_comes", "as_events", "as_error", "broken")
    ending = made.fit("e", head, body)
    content = ending if http10 else parsed(made.head([]) + ending).body
    assert error_in(dialect, content)


@pytest.mark.parametrize("status", [200, 422])
def test_a_bomb_costs_no_more_than_what_is_read_of_it(status: int) -> None:
    def cost(size: int) -> float:
        body = gzip.compress(b'{"choices":[' + b" " * size)
        head = response(status, JSON + GZIP).head
        made = promise(CHAT)

        def work() -> None:
            assert made.fate(head, body[:2048]) == ("as_events" if status == 200 else "as_error")
            assert len(made.fit("e", head, body)) < 5000

        return cpu_s(work)

    assert cost(64 * MAX_ANSWER) < 5 * cost(2 * MAX_ANSWER) + 0.005


def test_objects_of_fastchat_promise_nothing() -> None:
    assert not asks_for_stream(b'{"stream":true}', OBJECT)
