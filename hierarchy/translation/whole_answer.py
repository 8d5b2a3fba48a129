"""The events of a stream from an answer that came whole: some engines ignore `stream`.

Sources: OpenAI API reference, "Chat streaming", "Create completion" and "Responses streaming"; Anthropic API reference,
"Streaming messages".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import msgspec

Form = Literal["chat", "completion", "response", "message"]
Events = Iterator[tuple[str, dict[str, Any]]]  # the name of the event, or "", and its data

_DONE: Final = b"data: [DONE]\n\n"


def events_of(form: Form, body: bytes) -> bytes | None:
    """The stream that has the same content as the JSON of an answer; None if it is not an answer of this form."""
    try:
        answer = msgspec.json.decode(body)
        events = list(_FORMS[form](answer))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    lines = [
        (b"event: %b\n" % name.encode() if name else b"") + b"data: %b\n\n" % msgspec.json.encode(data)
        for name, data in events
    ]
    return b"".join(lines if form in ("response", "message") else [*lines, _DONE]) if events else None


def _chat(answer: dict[str, Any]) -> Events:
    """For each choice its message and its end. The usage is beside the last end: some clients read `choices[0]`."""
    common = {**answer, "object": "chat.completion.chunk"}
    usage = common.pop("usage", None)
    choices = answer["choices"]
    for choice in choices:
        delta = {"role": "assistant", **choice["message"]}
        if delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(delta["tool_calls"])]
        first = {"index": choice.get("index", 0), "delta": delta, "logprobs": choice.get("logprobs")}
        yield "", {**common, "choices": [{**first, "finish_reason": None}]}
    for choice in choices:
        end = {"index": choice.get("index", 0), "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}
        own = {"usage": usage} if usage is not None and choice is choices[-1] else {}
        yield "", {**common, "choices": [end], **own}


def _completion(answer: dict[str, Any]) -> Events:
    """One chunk, which has the form of the whole."""
    if answer["choices"][0]["text"] is not None:
        yield "", answer


def _response(answer: dict[str, Any]) -> Events:
    numbered = _response_events(answer)
    for number, (kind, fields) in enumerate(numbered):
        yield kind, {"type": kind, "sequence_number": number, **fields}


def _response_events(answer: dict[str, Any]) -> Events:
    begun = {**answer, "status": "in_progress", "output": [], "usage": None}
    status = answer.get("status") or "completed"
    output: list[dict[str, Any]] = answer["output"]
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    for index, item in enumerate(output):
        yield from _item_events(index, item)
    ended = status if status in ("failed", "incomplete") else "completed"
    yield f"response.{ended}", {"response": answer}


def _item_events(index: int, item: dict[str, Any]) -> Events:
    """Of one item of a response's output."""
    place: dict[str, Any] = {"output_index": index}
    content = item.get("content") if item["type"] == "message" else None
    begun = {**item, "status": "in_progress"}
    if content is not None:
        begun["content"] = []
    if item["type"] == "function_call":
        begun["arguments"] = ""
    yield "response.output_item.added", {**place, "item": begun}
    place["item_id"] = item.get("id") or ""
    for number, part in enumerate(content or ()):
        yield from _part_events({**place, "content_index": number}, part)
    if item["type"] == "function_call":
        arguments = item.get("arguments") or ""
        yield "response.function_call_arguments.delta", {**place, "delta": arguments}
        yield "response.function_call_arguments.done", {**place, "arguments": arguments, "name": item.get("name")}
    yield "response.output_item.done", {"output_index": index, "item": item}


def _part_events(place: dict[str, Any], part: dict[str, Any]) -> Events:
    """Of one part of a message's content: its text, or a refusal of the model."""
    field = "refusal" if part["type"] == "refusal" else "text"
    kind = "refusal" if field == "refusal" else "output_text"
    text, logprobs = part.get(field) or "", {} if field == "refusal" else {"logprobs": part.get("logprobs") or []}
    yield "response.content_part.added", {**place, "part": {**part, field: ""}}
    yield f"response.{kind}.delta", {**place, "delta": text, **logprobs}
    yield f"response.{kind}.done", {**place, field: text, **logprobs}
    yield "response.content_part.done", {**place, "part": part}


def _message(answer: dict[str, Any]) -> Events:
    for kind, fields in _message_events(answer):
        yield kind, {"type": kind, **fields}


def _message_events(answer: dict[str, Any]) -> Events:
    usage = answer.get("usage") or {"input_tokens": 0, "output_tokens": 0}
    begun = {
        **answer,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 0},
    }
    yield "message_start", {"message": begun}
    for index, block in enumerate(answer["content"]):
        empty, deltas = _block(block)
        yield "content_block_start", {"index": index, "content_block": empty}
        for delta in deltas:
            yield "content_block_delta", {"index": index, "delta": delta}
        yield "content_block_stop", {"index": index}
    stop = {"stop_reason": answer.get("stop_reason"), "stop_sequence": answer.get("stop_sequence")}
    yield "message_delta", {"delta": stop, "usage": usage}
    yield "message_stop", {}


def _block(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block of a message as it begins, and what is added to it."""
    match block["type"]:
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": block["text"]}]
        case "tool_use":
            added = msgspec.json.encode(block["input"]).decode()
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": added}]
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
            if block.get("signature"):
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {**block, "thinking": "", "signature": ""}, deltas
    return block, []


_FORMS: Final[dict[Form, Callable[[dict[str, Any]], Events]]] = {
    "chat": _chat,
    "completion": _completion,
    "response": _response,
    "message": _message,
}
