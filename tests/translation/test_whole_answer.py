"""A whole answer becomes the events of a stream, which have the same content."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.translation.whole_answer import MAX_GROWTH, MAX_ITEMS, MAX_VALUES, Form, events_of

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FORMS: tuple[Form, ...] = get_args(Form)


def events(form: Form, answer: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    """The data of each event. Its name, if it has one, is its type too."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer, indent=1).encode()
    stream = events_of(form, body)
    assert stream is not None
    assert stream.endswith(b"\n\n")
    found = []
    for one in stream.decode().split("\n\n")[:-1]:
        *name, data = one.split("\n")
        if data == "data: [DONE]":
            continue
        found.append(json.loads(data.removeprefix("data: ")))
        assert not name or name == [f"event: {found[-1]['type']}"]
    assert stream.endswith(b"data: [DONE]\n\n") == (form in ("chat", "completion"))
    return found


# -- OpenAI's chat and completions -----------------------------------------------------------------------------------


def test_each_choice_of_a_chat_has_its_message_and_its_end() -> None:
    answer = {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m", "usage": {"total_tokens": 3},
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "length",
             "logprobs": {"content": [{"token": "hi", "logprob": -0.5}]}},
            {"index": 1, "message": {"content": None, "tool_calls": [CALL, CALL]}, "finish_reason": None},
        ],
    }  # fmt: skip
    one, two, end_one, end_two = events("chat", answer)
    assert {(found["object"], found["id"], found["model"]) for found in (one, two, end_one, end_two)} == {
        ("chat.completion.chunk", "x", "m")
    }
    assert one["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": "hi"}, "finish_reason": None,
         "logprobs": {"content": [{"token": "hi", "logprob": -0.5}]}}
    ]  # fmt: skip
    delta = two["choices"][0]["delta"]
    assert (delta["role"], delta["content"]) == ("assistant", None)
    assert delta["tool_calls"] == [{"index": 0, **CALL}, {"index": 1, **CALL}]
    assert end_one["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert end_two["choices"] == [{"index": 1, "delta": {}, "finish_reason": "stop"}]
    assert [found.get("usage") for found in (one, two, end_one, end_two)] == [None, None, None, {"total_tokens": 3}]


def test_no_tool_calls_stay_none() -> None:
    none: tuple[Any, ...] = (None, [])
    for calls in none:
        first, _ = events("chat", {"choices": [{"message": {"content": "hi", "tool_calls": calls}}]})
        assert first["choices"][0]["delta"]["tool_calls"] == calls
        assert first["choices"][0]["index"] == 0


def test_a_completion_is_one_event() -> None:
    answer = {"id": "x", "choices": [{"index": 0, "text": "hi\nyou", "finish_reason": "stop"}]}
    assert events("completion", answer) == [answer]


# -- OpenAI's responses ----------------------------------------------------------------------------------------------


def test_a_response_has_the_events_of_each_item_and_part() -> None:
    text = {"type": "output_text", "text": "hi", "annotations": []}
    refusal = {"type": "refusal", "refusal": "no"}
    answer = {
        "id": "r", "status": "completed", "usage": {"total_tokens": 3},
        "output": [
            {"type": "message", "id": "o", "content": [text, refusal]},
            {"type": "function_call", "id": "f", "name": "g", "arguments": "{}"},
            {"type": "reasoning", "summary": []},
        ],
    }  # fmt: skip
    found = events("response", answer)
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    kinds = [one["type"].removeprefix("response.") for one in found]
    part = ["content_part.added", "{}.delta", "{}.done", "content_part.done"]
    assert kinds == [
        "created", "in_progress",
        "output_item.added", *(kind.format("output_text") for kind in part),
        *(kind.format("refusal") for kind in part), "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "output_item.added", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert found[0]["response"] == {**answer, "status": "in_progress", "output": [], "usage": None}
    assert found[-1]["response"] == answer
    assert found[2]["item"] == {"type": "message", "id": "o", "content": [], "status": "in_progress"}
    assert (found[4]["delta"], found[4]["item_id"], found[4]["content_index"]) == ("hi", "o", 0)
    assert (found[9]["refusal"], found[9]["content_index"]) == ("no", 1)
    assert found[12]["item"]["arguments"] == ""
    assert (found[14]["arguments"], found[14]["name"], found[14]["output_index"]) == ("{}", "g", 1)
    assert found[16]["item"]["status"] == "in_progress"


@pytest.mark.parametrize(
    ("status", "kind"),
    [("failed", "failed"), ("incomplete", "incomplete"), ("queued", "completed"), (None, "completed")],
)
def test_a_response_ends_as_its_status_says(status: str | None, kind: str) -> None:
    assert events("response", {"status": status, "output": []})[-1]["type"] == f"response.{kind}"


# -- Anthropic's messages --------------------------------------------------------------------------------------------


def test_a_message_has_the_events_of_each_block() -> None:
    answer = {
        "type": "message", "id": "x", "role": "assistant", "stop_reason": "tool_use", "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 2},
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "hi"},
            {"type": "tool_use", "id": "c", "name": "f", "input": {"a": [1, 2.50]}},
            {"type": "redacted_thinking", "data": "zz"},
        ],
    }  # fmt: skip
    found = events("message", answer)
    begun = found[0]["message"]
    assert (begun["content"], begun["stop_reason"], begun["usage"]) == (
        [], None, {"input_tokens": 1, "output_tokens": 0},
    )  # fmt: skip
    starts = [one["content_block"] for one in found if one["type"] == "content_block_start"]
    assert starts == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "c", "name": "f", "input": {}},
        {"type": "redacted_thinking", "data": "zz"},
    ]
    deltas = [(one["index"], one["delta"]) for one in found if one["type"] == "content_block_delta"]
    assert deltas[:3] == [
        (0, {"type": "thinking_delta", "thinking": "hm"}),
        (0, {"type": "signature_delta", "signature": "s"}),
        (1, {"type": "text_delta", "text": "hi"}),
    ]
    assert json.loads(deltas[3][1]["partial_json"]) == {"a": [1, 2.5]}
    assert found[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert found[-2]["usage"]["output_tokens"] == 2
    assert found[-1] == {"type": "message_stop"}


# -- what is none, and what is too much ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{}", b"{", b'"x"', b'{"error":{"message":"x"}}', b'{"choices":[]}', b'{"choices":null}',
        b'{"choices":[1]}', b'{"choices":[{"message":null}]}', b'{"choices":[{"text":null}]}', b'{"choices":[{}]}',
        b'{"choices":{}}', b'{"output":[1]}', b'{"output":[{}]}', b'{"content":[{}]}', b'{"content":"x"}',
        b'{"content":[{"type":"text"}]}', b'{"output":[{"type":7}]}', b"[" * 10**5, b'{"choices":' + b"[" * 10**5,
        b'{"choices":[{"message":{"content":"\xff"},"text":"\xff"}],"output":[],"content":[],"x":"\xff"}',
    ],
)  # fmt: skip
def test_what_is_not_an_answer_of_the_form_has_no_events(form: Form, body: bytes) -> None:
    assert events_of(form, body) is None


def answer_with(count: int, extra: str = "") -> dict[Form, bytes]:
    """An answer of each form, with a list of so many items."""
    items = {
        "chat": {"message": {"content": "x"}}, "completion": {"text": "x"},
        "response": {"type": "message", "content": []}, "message": {"type": "text", "text": "x"},
    }  # fmt: skip
    names = {"chat": "choices", "completion": "choices", "response": "output", "message": "content"}
    return {form: json.dumps({"id": extra, names[form]: [items[form]] * count}).encode() for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_there_are_limits_for_what_a_list_has(form: Form) -> None:
    assert events_of(form, answer_with(MAX_ITEMS)[form]) is not None
    assert events_of(form, answer_with(MAX_ITEMS + 1)[form]) is None
    assert events_of(form, answer_with(MAX_VALUES)[form]) is None


def test_what_each_event_repeats_is_limited() -> None:
    """A megabyte beside a thousand choices would be two gigabytes of events."""
    assert events_of("chat", answer_with(MAX_ITEMS, "x" * 10**6)["chat"]) is None
    body = answer_with(20, "x" * 1000)["chat"]
    found = events_of("chat", body)
    assert found is not None
    assert len(found) > MAX_GROWTH * len(body)  # there is room for short answers that grow


TEXT = st.text(max_size=20)


@given(TEXT, st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.sampled_from([None, 1, 4]))
def test_everything_else_passes_as_it_is(text: str, number: float, big: int, indent: int | None) -> None:
    extra = {"x": [number, big, text], "text": text}
    chat = {"choices": [{"index": 0, "message": {"content": text, "more": extra}}], **extra}
    first, _ = events("chat", json.dumps(chat, indent=indent, ensure_ascii=False).encode())
    assert (first["x"], first["choices"][0]["delta"]["more"]) == (extra["x"], extra)
    message = {"content": [{"type": "tool_use", "input": extra}]}
    found = events("message", json.dumps(message, indent=indent).encode())
    assert json.loads(found[2]["delta"]["partial_json"]) == extra


@given(st.sampled_from(FORMS), st.binary(max_size=60), st.integers(0, 200))
def test_whatever_comes_there_are_events_or_none(form: Form, noise: bytes, at: int) -> None:
    body = answer_with(2)[form]
    stream = events_of(form, body[:at] + noise + body[at:])
    if stream is not None:
        for line in stream.decode().split("\n"):
            assert line in ("", "data: [DONE]") or line.startswith("event: ") or json.loads(line[6:])
