"""The events of a stream from an answer that came whole: some engines ignore `stream`.

Only the fields that tell where the events begin are decoded. All other JSON passes as it came, in one copy or a few, so
what an answer costs depends on its length, and hardly on what is in it.

Sources: OpenAI API reference, "Chat streaming", "Create completion" and "Responses streaming"; Anthropic API reference,
"Streaming messages".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import msgspec

Form = Literal["chat", "completion", "response", "message"]
Fields = dict[str, msgspec.Raw]  # of a JSON object, not decoded
Events = Iterator[tuple[str, dict[str, Any]]]  # the name of the event, or "", and its data

MAX_VALUES: Final = 200_000  # of the JSON; they cost more than the bytes between them
MAX_ITEMS: Final = 1000  # of each list that is made events: choices, tool calls, items, parts, blocks
#: The events may have so many times the bytes of the answer: the text of OpenAI's responses is in five of them. What
#: each event repeats, such as an id, is bounded by that too.
MAX_GROWTH: Final = 8
_ROOM: Final = 256 * 1024  # bytes beside that, for what is added to each event
_DONE: Final = b"data: [DONE]\n\n"
_UNSET: Final = (b"null", b'""', b"0", b"false")
_EMPTY: Final = msgspec.Raw(b'""')
_decode_object: Final = msgspec.json.Decoder(Fields).decode
_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw] | None).decode
_decode_text: Final = msgspec.json.Decoder(str).decode


class _TooLarge(Exception):
    """A list is too long, or the events repeat too much."""


def events_of(form: Form, body: bytes) -> bytes | None:
    """The stream that has the same content as the JSON of an answer; None if it is not an answer of this form."""
    if body.count(b",") > MAX_VALUES:
        return None
    lines: list[bytes] = []
    left = MAX_GROWTH * len(body) + _ROOM
    try:
        body.decode()  # what is not decoded below has to be text, too
        for name, data in _FORMS[form](_decode_object(body)):
            line = _on_one_line(b"data: %b" % msgspec.json.encode(data)) + b"\n\n"
            lines.append(b"event: %b\n%b" % (name.encode(), line) if name else line)
            left -= len(line)
            if left < 0:
                return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, _TooLarge):
        return None
    if not lines:
        return None
    return b"".join(lines if form in ("response", "message") else [*lines, _DONE])


def _on_one_line(line: bytes) -> bytes:
    """JSON has line ends between its tokens alone; inside strings they are escaped."""
    return line.replace(b"\n", b" ").replace(b"\r", b" ")


# -- JSON that is decoded one level deep -----------------------------------------------------------------------------


def _list(fields: Fields, name: str) -> list[Fields]:
    """A list of objects; empty if there is none."""
    items = _decode_list(fields[name]) if name in fields else None
    if items is not None and len(items) > MAX_ITEMS:
        raise _TooLarge
    return [_decode_object(item) for item in items or ()]


def _is_set(fields: Fields, name: str) -> bool:
    return name in fields and bytes(fields[name]) not in _UNSET


def _get(fields: Fields, name: str, default: Any = None) -> Any:
    """A field as it is; the default where it is missing, null or empty."""
    return fields[name] if _is_set(fields, name) else default


# -- the forms -------------------------------------------------------------------------------------------------------


def _chat(answer: Fields) -> Events:
    """For each choice its message and its end. The usage is beside the last end: some clients read `choices[0]`."""
    choices = _list(answer, "choices")
    common: dict[str, Any] = {**answer, "object": "chat.completion.chunk"}
    usage = common.pop("usage", None)
    for choice in choices:
        message = _decode_object(choice["message"])
        delta: dict[str, Any] = {"role": "assistant", **message}
        calls = _list(message, "tool_calls")
        if calls:
            delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(calls)]
        first = {"index": choice.get("index", 0), "delta": delta, "logprobs": choice.get("logprobs")}
        yield "", {**common, "choices": [{**first, "finish_reason": None}]}
    for choice in choices:
        end = {"index": choice.get("index", 0), "delta": {}, "finish_reason": _get(choice, "finish_reason", "stop")}
        own = {"usage": usage} if usage is not None and choice is choices[-1] else {}
        yield "", {**common, "choices": [end], **own}


def _completion(answer: Fields) -> Events:
    """One chunk, which has the form of the whole."""
    if bytes(_list(answer, "choices")[0]["text"]) != b"null":
        yield "", dict(answer)


def _response(answer: Fields) -> Events:
    for number, (kind, fields) in enumerate(_response_events(answer)):
        yield kind, {"type": kind, "sequence_number": number, **fields}


def _response_events(answer: Fields) -> Events:
    begun: dict[str, Any] = {**answer, "status": "in_progress", "output": [], "usage": None}
    status = _decode_text(_get(answer, "status", b'"completed"'))
    answer["output"]  # an answer has it
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    for index, item in enumerate(_list(answer, "output")):
        yield from _item_events(index, item)
    ended = status if status in ("failed", "incomplete") else "completed"
    yield f"response.{ended}", {"response": answer}


def _item_events(index: int, item: Fields) -> Events:
    """Of one item of a response's output."""
    place: dict[str, Any] = {"output_index": index}
    kind = _decode_text(item["type"])
    begun: dict[str, Any] = {**item, "status": "in_progress"}
    if kind == "message" and _is_set(item, "content"):
        begun["content"] = []
    if kind == "function_call":
        begun["arguments"] = ""
    yield "response.output_item.added", {**place, "item": begun}
    place["item_id"] = _get(item, "id", _EMPTY)
    for number, part in enumerate(_list(item, "content") if kind == "message" else ()):
        yield from _part_events({**place, "content_index": number}, part)
    if kind == "function_call":
        arguments = _get(item, "arguments", _EMPTY)
        yield "response.function_call_arguments.delta", {**place, "delta": arguments}
        yield "response.function_call_arguments.done", {**place, "arguments": arguments, "name": item.get("name")}
    yield "response.output_item.done", {"output_index": index, "item": item}


def _part_events(place: dict[str, Any], part: Fields) -> Events:
    """Of one part of a message's content: its text, or a refusal of the model."""
    field = "refusal" if _decode_text(part["type"]) == "refusal" else "text"
    kind = "refusal" if field == "refusal" else "output_text"
    text, logprobs = _get(part, field, _EMPTY), {} if field == "refusal" else {"logprobs": _get(part, "logprobs", [])}
    yield "response.content_part.added", {**place, "part": {**part, field: ""}}
    yield f"response.{kind}.delta", {**place, "delta": text, **logprobs}
    yield f"response.{kind}.done", {**place, field: text, **logprobs}
    yield "response.content_part.done", {**place, "part": part}


def _message(answer: Fields) -> Events:
    for kind, fields in _message_events(answer):
        yield kind, {"type": kind, **fields}


def _message_events(answer: Fields) -> Events:
    answer["content"]  # an answer has it
    usage: dict[str, Any] = {"input_tokens": 0, "output_tokens": 0}
    if _is_set(answer, "usage"):
        usage.update(_decode_object(answer["usage"]))
    begun: dict[str, Any] = {
        **answer,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 0},
    }
    yield "message_start", {"message": begun}
    for index, block in enumerate(_list(answer, "content")):
        empty, deltas = _block(block)
        yield "content_block_start", {"index": index, "content_block": empty}
        for delta in deltas:
            yield "content_block_delta", {"index": index, "delta": delta}
        yield "content_block_stop", {"index": index}
    stop = {"stop_reason": answer.get("stop_reason"), "stop_sequence": answer.get("stop_sequence")}
    yield "message_delta", {"delta": stop, "usage": usage}
    yield "message_stop", {}


def _block(block: Fields) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block of a message as it begins, and what is added to it."""
    match _decode_text(block["type"]):
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": block["text"]}]
        case "tool_use":
            added = bytes(block["input"]).decode()
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": added}]
        case "thinking":
            deltas: list[dict[str, Any]] = [{"type": "thinking_delta", "thinking": block["thinking"]}]
            if _is_set(block, "signature"):
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {**block, "thinking": "", "signature": ""}, deltas
    return dict(block), []


_FORMS: Final[dict[Form, Callable[[Fields], Events]]] = {
    "chat": _chat,
    "completion": _completion,
    "response": _response,
    "message": _message,
}
