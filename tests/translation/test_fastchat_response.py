"""Responses of an engine of OpenAI's family, translated for FastChat's client."""

from __future__ import annotations

import contextlib
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.translation import BadEngineResponse, fastchat_response, to_openai
from tests.translation.support import cuts, frames, pieces, translate

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
STREAM, OBJECT, EMBED = "/worker_generate_stream", "/worker_generate", "/worker_get_embeddings"


def chunk(text: str, reason: str | None = None, **fields: Any) -> bytes:
    choices = [{"index": 0, "text": text, "finish_reason": reason, "logprobs": None}]
    return b"data: %b\n\n" % json.dumps({"choices": choices, **fields}).encode()


ANSWER = (
    chunk("Hel")
    + chunk("lo")
    + chunk("", "length")
    + b'data: {"choices":[],"usage":%b}\n\n' % json.dumps(USAGE).encode()
)
DONE = b"data: [DONE]\n\n"


def translator(path: str = STREAM, **fields: Any) -> Any:
    return to_openai(path, json.dumps({"prompt": "p", "echo": False, **fields}).encode()).translator("m")


@given(cuts, st.booleans())
def test_each_frame_of_a_stream_has_the_text_so_far(sizes: list[int], echo: bool) -> None:
    reads = pieces(ANSWER + DONE, sizes)
    found = frames(translate(translator(echo=echo), reads))
    assert len(found) <= len(reads) + 1
    assert found[-1] == {
        "text": "pHello" if echo else "Hello",
        "error_code": 0,
        "usage": USAGE,
        "finish_reason": "length",
    }
    for before, after in pairwise(found):
        assert after["text"].startswith(before["text"])
        assert before["finish_reason"] is None


def test_a_response_in_one_object() -> None:
    body = {"choices": [{"text": "Hi", "finish_reason": "stop", "logprobs": {"tokens": ["Hi"]}}], "usage": USAGE}
    sent = json.loads(translate(translator(OBJECT), [json.dumps(body).encode()]))
    expected = {"text": "Hi", "error_code": 0, "usage": USAGE, "finish_reason": "stop", "logprobs": {"tokens": ["Hi"]}}
    assert sent == expected


def test_each_frame_of_a_stream_has_all_log_probabilities() -> None:
    def event(text: str) -> bytes:
        choice = {"text": text, "finish_reason": None, "logprobs": {"tokens": [text], "token_logprobs": [-1.0]}}
        return b"data: %b\n\n" % json.dumps({"choices": [choice]}).encode()

    first, *_, last = frames(translate(translator(logprobs=1), [event("a"), event("b"), DONE]))
    assert first["logprobs"] == {"tokens": ["a"], "token_logprobs": [-1.0]}
    assert last["logprobs"] == {"tokens": ["a", "b"], "token_logprobs": [-1.0, -1.0]}


def test_an_endless_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for the text, which is kept for the next frame, not for the JSON around each piece."""
    monkeypatch.setattr(fastchat_response, "MAX_BUFFERED_BYTES", 100)
    assert frames(translate(translator(), [chunk("a")] * 100 + [DONE]))[-1]["text"] == "a" * 100
    with pytest.raises(BadEngineResponse, match="more than 100 bytes"):
        translate(translator(), [chunk("a")] * 101 + [DONE])


@pytest.mark.parametrize("path", [STREAM, OBJECT])
def test_an_engines_error_becomes_an_error_object_with_status_200(path: str) -> None:
    found = translator(path)
    sent = translate(found, [b'{"error":{"message":"too long"}}'], 400)
    assert json.loads(sent.strip(b"\0")) == {"text": "too long", "error_code": 40302}
    assert (found.status, sent.endswith(b"\0")) == (200, path == STREAM)
    with pytest.raises(BadEngineResponse, match="answered 503"):
        translate(translator(path), [b"busy"], 503)


def test_an_error_in_mid_stream_is_the_last_frame() -> None:
    for error in (b'event: error\ndata: {"error":{"message":"gone"}}\n\n', b'data: {"error":{"message":"gone"}}\n\n'):
        *_, last = frames(translate(translator(), [chunk("a"), error, chunk("b")]))
        assert last == {"text": "gone", "error_code": 50001}


def test_a_stream_that_ends_too_early_is_refused() -> None:
    for stream in (chunk("a"), b"", b": waiting\n\n"):
        with pytest.raises(BadEngineResponse, match="before its answer was complete"):
            translate(translator(), [stream])
    assert frames(translate(translator(), [chunk("a", "stop")]))[-1]["finish_reason"] == "stop"  # some send no [DONE]


@given(st.binary(max_size=60), st.sampled_from([STREAM, OBJECT, EMBED]), st.sampled_from([200, 400, 500]))
def test_any_bytes_are_translated_or_refused(data: bytes, path: str, status: int) -> None:
    found = to_openai(path, b'{"prompt":"p","input":"a"}').translator("m")
    with contextlib.suppress(BadEngineResponse):
        translate(found, pieces(data, [7]), status)
