"""A worker's frames as OpenAI's answers."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.translation import BadReply
from hierarchy.translation.openai_response import ChatForm, CompletionReply, TextForm
from tests.translation.support import cuts, events, frame, pieces, play

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
STREAM = frame("He") + b"\0" + frame("Hello wor") + frame("Hello world", usage=USAGE, finish_reason="length")
KNOWN = {"id": "x-1", "created": 7, "model": "m"}


def chat(**options: Any) -> CompletionReply:
    return CompletionReply(ChatForm("m", "x-1", 7), **options)


def text_of(said: bytes) -> str:
    choices = [one["choices"][0] for one in events(said) if one != "[DONE]" and one["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


@given(cuts)
def test_a_chat_in_one_piece(sizes: list[int]) -> None:
    reply = chat()
    assert json.loads(play(reply, pieces(STREAM, sizes))) == {
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
    assert (reply.status, reply.content_type) == (200, b"application/json")


@given(cuts, st.booleans())
def test_a_chat_as_a_stream(sizes: list[int], usage: bool) -> None:
    said = play(chat(streams=True, usage=usage), pieces(STREAM, sizes))
    assert text_of(said) == "Hello world"
    first, *_, done = events(said)
    assert first == {**KNOWN, "object": "chat.completion.chunk", "choices": first["choices"]}
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert done == "[DONE]"
    last = events(said)[-3 if usage else -2]
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "length")
    if usage:
        assert events(said)[-2] == {**KNOWN, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}


def test_a_completion_both_ways() -> None:
    whole = json.loads(play(CompletionReply(TextForm("m", "x-1", 7)), [frame("a", logprobs={"tokens": ["a"]})]))
    choice = {"index": 0, "text": "a", "logprobs": {"tokens": ["a"]}, "finish_reason": "stop"}
    assert whole["choices"] == [choice]
    assert whole["object"] == "text_completion"
    *said, done = events(play(CompletionReply(TextForm("m"), streams=True), [frame("a"), frame("ab")]))
    assert [one["choices"][0]["text"] for one in said] == ["a", "b", ""]
    assert done == "[DONE]"


def test_log_probabilities_of_a_stream_come_once() -> None:
    def said(*tokens: str) -> bytes:
        return frame("".join(tokens), logprobs={"tokens": tokens, "token_logprobs": [-1.0] * len(tokens)})

    reply = CompletionReply(TextForm("m"), streams=True, stops=["cd"])
    *found, _ = events(play(reply, [said("a"), said("a", "b", "c"), said("a", "b", "c", "e")]))
    choices = [one["choices"][0] for one in found]
    assert [choice["text"] for choice in choices] == ["a", "b", "ce", ""]
    assert [choice["logprobs"] and choice["logprobs"]["tokens"] for choice in choices] == [
        ["a"],
        ["b", "c"],
        ["e"],
        None,
    ]


@pytest.mark.parametrize("streams", [False, True])
def test_a_stop_string_ends_it_whatever_the_worker_does(streams: bool) -> None:
    reply = chat(stops=["</s>"], streams=streams)
    said = play(reply, [frame("yes<"), frame("yes</s> and on"), frame("never")])
    assert reply.done
    assert b"s>" not in said
    if streams:
        assert text_of(said) == "yes"
        assert events(said)[-2]["choices"][0]["finish_reason"] == "stop"
    else:
        assert json.loads(said)["choices"][0]["message"]["content"] == "yes"


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
def test_an_error_at_once_is_the_answer(code: int, status: int, streams: bool) -> None:
    reply = chat(streams=streams)
    said = json.loads(play(reply, [frame("no luck", code)]))
    assert (reply.status, reply.content_type) == (status, b"application/json")
    assert said["error"]["message"] == "no luck"


def test_an_error_later_is_an_event_and_the_last_one() -> None:
    *_, last = events(play(chat(streams=True), [frame("a"), frame("no luck", 50002), frame("never")]))
    assert last["error"]["message"] == "no luck"


@pytest.mark.parametrize("streams", [False, True])
def test_a_refusal_by_status(streams: bool) -> None:
    reply = chat(streams=streams)
    assert json.loads(play(reply, [b'{"detail":"no"}'], 404))["error"]["message"] == "no"
    assert (reply.status, reply.content_type) == (404, b"application/json")
    with pytest.raises(BadReply, match="answered 500: Internal"):
        play(chat(streams=streams), [b"Internal Server Error"], 500)


def test_nothing_is_no_answer() -> None:
    for data in (b"", b"\0\0", b'{"text'):
        with pytest.raises(BadReply):
            play(chat(streams=True), [data])


@given(st.binary(max_size=60), st.booleans(), st.sampled_from([200, 400, 500]))
def test_any_bytes_are_understood_or_refused(data: bytes, streams: bool, status: int) -> None:
    with contextlib.suppress(BadReply):
        play(chat(streams=streams), pieces(data, [7]), status)
