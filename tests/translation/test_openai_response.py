"""A worker's frames, translated for OpenAI's client."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.translation import BadEngineResponse
from hierarchy.translation.openai_response import ChatObjects, CompletionObjects, GenerationTranslator
from tests.translation.support import cuts, events, frame, pieces, translate

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
STREAM = frame("He") + b"\0" + frame("Hello wor") + frame("Hello world", usage=USAGE, finish_reason="length")
KNOWN = {"id": "x-1", "created": 7, "model": "m"}


def chat(**options: Any) -> GenerationTranslator:
    return GenerationTranslator(ChatObjects("m", "x-1", 7), **options)


def text_of(body: bytes) -> str:
    choices = [one["choices"][0] for one in events(body) if one != "[DONE]" and one["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


@given(cuts)
def test_a_chat_that_is_not_streamed(sizes: list[int]) -> None:
    translator = chat()
    assert json.loads(translate(translator, pieces(STREAM, sizes))) == {
        **KNOWN,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello world"},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": USAGE,
    }
    assert (translator.status, translator.content_type) == (200, b"application/json")


@given(cuts, st.booleans())
def test_a_chat_that_is_streamed(sizes: list[int], usage: bool) -> None:
    body = translate(chat(streams=True, include_usage=usage), pieces(STREAM, sizes))
    assert text_of(body) == "Hello world"
    first, *_, done = events(body)
    assert first == {**KNOWN, "object": "chat.completion.chunk", "choices": first["choices"]}
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert done == "[DONE]"
    last = events(body)[-3 if usage else -2]
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "length")
    if usage:
        assert events(body)[-2] == {**KNOWN, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}


def test_a_completion_streamed_or_not() -> None:
    whole = json.loads(
        translate(GenerationTranslator(CompletionObjects("m", "x-1", 7)), [frame("a", logprobs={"tokens": ["a"]})])
    )
    choice = {"index": 0, "text": "a", "logprobs": {"tokens": ["a"]}, "finish_reason": "stop"}
    assert whole["choices"] == [choice]
    assert whole["object"] == "text_completion"
    *chunks, done = events(
        translate(GenerationTranslator(CompletionObjects("m"), streams=True), [frame("a"), frame("ab")])
    )
    assert [one["choices"][0]["text"] for one in chunks] == ["a", "b", ""]
    assert done == "[DONE]"


def test_a_stream_has_each_log_probability_once() -> None:
    def frame_of(*tokens: str) -> bytes:
        return frame("".join(tokens), logprobs={"tokens": tokens, "token_logprobs": [-1.0] * len(tokens)})

    translator = GenerationTranslator(CompletionObjects("m"), streams=True, stop_strings=["cd"])
    *found, _ = events(translate(translator, [frame_of("a"), frame_of("a", "b", "c"), frame_of("a", "b", "c", "e")]))
    choices = [one["choices"][0] for one in found]
    assert [choice["text"] for choice in choices] == ["a", "b", "ce", ""]
    assert [choice["logprobs"] and choice["logprobs"]["tokens"] for choice in choices] == [
        ["a"],
        ["b", "c"],
        ["e"],
        None,
    ]


@pytest.mark.parametrize("streams", [False, True])
def test_a_stop_string_ends_the_answer_if_the_worker_continues(streams: bool) -> None:
    translator = chat(stop_strings=["</s>"], streams=streams)
    body = translate(translator, [frame("yes<"), frame("yes</s> and on"), frame("never")])
    assert translator.done
    assert b"s>" not in body
    if streams:
        assert text_of(body) == "yes"
        assert events(body)[-2]["choices"][0]["finish_reason"] == "stop"
    else:
        assert json.loads(body)["choices"][0]["message"]["content"] == "yes"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (50001, 502),
        (50002, 503),
        (50005, 503),
        (50006, 504),
        (40303, 400),
        (42901, 429),
        (2, 503),
        (3, 504),
        (40301, 404),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_an_error_in_the_first_frame_is_the_response(code: int, status: int, streams: bool) -> None:
    translator = chat(streams=streams)
    body = json.loads(translate(translator, [frame("no luck", code)]))
    assert (translator.status, translator.content_type) == (status, b"application/json")
    assert body["error"]["message"] == "no luck"


def test_an_error_in_a_later_frame_is_the_last_event() -> None:
    *_, last = events(translate(chat(streams=True), [frame("a"), frame("no luck", 50002), frame("never")]))
    assert last["error"]["message"] == "no luck"


@pytest.mark.parametrize("streams", [False, True])
def test_an_error_by_status(streams: bool) -> None:
    translator = chat(streams=streams)
    assert json.loads(translate(translator, [b'{"detail":"no"}'], 404))["error"]["message"] == "no"
    assert (translator.status, translator.content_type) == (404, b"application/json")
    with pytest.raises(BadEngineResponse, match="answered 500: Internal"):
        translate(chat(streams=streams), [b"Internal Server Error"], 500)


def test_a_stream_without_a_complete_frame_is_refused() -> None:
    for data in (b"", b"\0\0", b'{"text'):
        with pytest.raises(BadEngineResponse):
            translate(chat(streams=True), [data])


@given(st.binary(max_size=60), st.booleans(), st.sampled_from([200, 400, 500]))
def test_any_bytes_are_translated_or_refused(data: bytes, streams: bool, status: int) -> None:
    with contextlib.suppress(BadEngineResponse):
        translate(chat(streams=streams), pieces(data, [7]), status)
