"""FastChat's requests for an engine of OpenAI's family, and the engine's responses for FastChat's client."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import BadRequest
from hierarchy.translation import BadEngineResponse, fastchat_response, to_fastchat, to_openai
from hierarchy.translation.worker_profile import NO_PROFILE
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


def engine_request(path: str = STREAM, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(to_openai(path, json.dumps({"prompt": "p", **fields}).encode()).body("own"))
    return found


def translator(path: str = STREAM, **fields: Any) -> Any:
    return to_openai(path, json.dumps({"prompt": "p", "echo": False, **fields}).encode()).translator("m")


def test_a_request_for_an_engine() -> None:
    neutral: dict[str, Any] = {
        "temperature": 0.7,
        "top_k": -1,
        "presence_penalty": 0,
        "repetition_penalty": 1.0,
        "stop_token_ids": [],
    }
    assert engine_request(**neutral, stop=None, images=[], use_beam_search=False) == {
        "model": "own",
        "prompt": "p",
        "max_tokens": 256,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
    }
    more: dict[str, Any] = {
        "top_k": 5,
        "top_p": 0.5,
        "stop": ["a"],
        "stop_token_ids": [2],
        "repetition_penalty": 1.1,
        "logprobs": 1,
    }
    found = engine_request(OBJECT, max_new_tokens=9, **more)
    assert found == {"model": "own", "prompt": "p", "max_tokens": 9, "stream": False, **more}


@pytest.mark.parametrize(
    "fields",
    [
        {"images": ["x"]},
        {"use_beam_search": True},
        {"prompt": 1},
        {"max_new_tokens": 1e300},
        {"max_new_tokens": -1},
        {"max_new_tokens": 0.5},
        {"max_new_tokens": 0},
    ],
)
def test_a_request_that_the_engine_does_not_support_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        engine_request(**fields)


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


def test_embeddings_in_both_directions() -> None:
    to_engine = to_openai(EMBED, b'{"model":"m","input":["a","b"],"encoding_format":null}')
    assert json.loads(to_engine.body("own")) == {"model": "own", "input": ["a", "b"]}
    of_engine = {
        "data": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}],
        "usage": {"prompt_tokens": 2},
    }
    of_worker = {"embedding": [[1.0], [2.0]], "token_num": 2}
    assert json.loads(translate(to_engine.translator("m"), [json.dumps(of_engine).encode()])) == of_worker
    to_worker = to_fastchat("/v1/embeddings", b'{"model":"m","input":["a","b"]}')
    assert json.loads(translate(to_worker.translator(NO_PROFILE, "m"), [json.dumps(of_worker).encode()])) == {
        "object": "list",
        "model": "m",
        "data": [{"object": "embedding", "index": at, "embedding": [at + 1.0]} for at in (0, 1)],
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }


def test_embeddings_are_encoded_in_base64_by_the_node() -> None:
    """A worker would encode the numbers of its model, which may have 16 bits; OpenAI's have 32."""
    to_worker = to_fastchat("/v1/embeddings", b'{"model":"m","input":"a","encoding_format":"base64"}')
    assert json.loads(to_worker.body(NO_PROFILE, "own", None))["encoding_format"] is None
    found = json.loads(translate(to_worker.translator(NO_PROFILE, "m"), [b'{"embedding":[[1.5,-2]],"token_num":1}']))
    assert struct.unpack("<2f", base64.b64decode(found["data"][0]["embedding"])) == (1.5, -2.0)
    for body in (b'{"embedding":[[1e300]]}', b'{"embedding":[["x"]]}', b'{"embedding":["AAAA"]}'):
        with pytest.raises(BadEngineResponse):
            translate(to_worker.translator(NO_PROFILE, "m"), [body])


def test_embeddings_that_are_malformed_or_missing() -> None:
    to_worker = to_fastchat("/v1/embeddings", b'{"model":"m","input":"a"}')
    found = to_worker.translator(NO_PROFILE, "m")
    assert json.loads(translate(found, [b'{"text":"oom","error_code":50002}']))["error"]["message"] == "oom"
    assert found.status == 503
    for malformed in (b"{}", b"[", b'{"embedding":[[1],[2]]}'):
        with pytest.raises(BadEngineResponse):
            translate(to_worker.translator(NO_PROFILE, "m"), [malformed])
    to_engine = to_openai(EMBED, b'{"model":"m","input":["a"]}')
    assert json.loads(translate(to_engine.translator("m"), [b'{"error":"no"}'], 400)) == {
        "text": "no",
        "error_code": 40302,
    }
    with pytest.raises(BadEngineResponse):
        translate(to_engine.translator("m"), [b'{"data":[]}'])
    with pytest.raises(BadEngineResponse):
        translate(to_engine.translator("m"), [b'{"data":[{"index":0}]}'])
    encoded = {"data": [{"index": 0, "embedding": "AADAPw=="}]}
    assert json.loads(translate(to_engine.translator("m"), [json.dumps(encoded).encode()]))["embedding"] == ["AADAPw=="]


@given(st.binary(max_size=60), st.sampled_from([STREAM, OBJECT, EMBED]), st.sampled_from([200, 400, 500]))
def test_any_bytes_are_translated_or_refused(data: bytes, path: str, status: int) -> None:
    found = to_openai(path, b'{"prompt":"p","input":"a"}').translator("m")
    with contextlib.suppress(BadEngineResponse):
        translate(found, pieces(data, [7]), status)
