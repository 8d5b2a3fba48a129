"""What an engine makes its prompt of, as bytes of a request's body: found in the pass that finds the model.

The order is that of chat templates: the system prompt, then the tools, then the messages. So what most requests have in
common comes first. Messages come one by one, without what is between them, and a prompt without its closing quote or
bracket, so that the bytes of a conversation that grows at its end begin with those that it had.

Marks of caches, which move from message to message with each turn, are cut out; no engine sees them in its prompt.

Source: OpenAI API reference (`messages`, `tools`, `prompt`, `input`, `instructions`); Anthropic API reference
(`system`, `cache_control`); vLLM, protocol.py (`cache_salt`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

MESSAGES: Final = "messages"
#: fields of a body that matter here, beside `messages`
FIELDS: Final = (
    "system", "instructions", "tools", "prompt", "input", "cache_salt", "prompt_cache_key", "previous_response_id",
    "user",
)  # fmt: skip
MAX_ELEMENTS: Final = 100_000  # messages that are told apart
TAIL: Final = 256  # bytes at the end of a message, in which its mark is
LATEST: Final = 3  # messages of which one has a mark, if the client sends any
_NULL: Final = b"null"
_is_system: Final[Any] = re.compile(rb'\{\s*"role"\s*:\s*"(?:system|developer)"').match
_has_role_first: Final[Any] = re.compile(rb'\{\s*"role"').match
_ends_as_system: Final[Any] = re.compile(rb'"role"\s*:\s*"(?:system|developer)"\s*\}').search
_MARK: Final[Any] = re.compile(rb',\s*"cache_control"\s*:\s*(?:null|\{[^{}]*\})')
_BILLING: Final[Any] = re.compile(rb'x-anthropic-billing-header:[^"\\]*')  # of Claude Code; another one each time


class Prompt:
    """The prompt of one body. parts: buffers, in the order in which the engine reads them."""

    __slots__ = ("cache_key", "cache_salt", "first", "length", "parts", "previous", "user")

    def __init__(self, parts: list[Any], first: Any, fields: Mapping[str, Any]) -> None:
        self.parts = parts
        self.length = 0
        for part in parts:
            self.length += len(memoryview(part))
        self.first = first  # the first message that is not the system's; None if there are no messages
        # The values of fields, as they are written; b"" if one is not there.
        self.cache_salt = _value(fields, "cache_salt")
        self.cache_key = _value(fields, "prompt_cache_key")
        self.previous = _value(fields, "previous_response_id")
        self.user = _value(fields, "user")

    def __repr__(self) -> str:
        return f"<Prompt of {self.length} bytes>"


def _value(fields: Mapping[str, Any], name: str) -> bytes:
    value = fields.get(name)
    raw = b"" if value is None else bytes(value)
    return b"" if raw == _NULL else raw


def prompt_of(messages: Sequence[Any] | None, fields: Mapping[str, Any]) -> Prompt:
    """The prompt of a body. messages: the elements of `messages`. fields: the values of `FIELDS`. All are buffers."""
    parts: list[Any] = []
    first: Any = None
    system = fields.get("system")
    if system is not None:
        parts.append(_without_billing(system))
    _add(parts, fields.get("instructions"))
    tools, begin = fields.get("tools"), 0
    if messages:
        if tools is not None:
            while begin < len(messages) and is_system(messages[begin]):
                parts.append(messages[begin])
                begin += 1
            parts.append(tools)
        rest = _without_marks(messages[begin:] if begin else messages)
        parts += rest
        for first in rest:
            if begin or not is_system(first):
                break
    else:
        _add(parts, tools)
    for name in ("prompt", "input"):
        value = fields.get(name)
        if value is not None and len(memoryview(value)) > 1:
            parts.append(memoryview(value)[:-1])
    return Prompt(parts, first, fields)


def _add(parts: list[Any], value: Any) -> None:
    if value is not None:
        parts.append(value)


def is_system(message: Any) -> bool:
    """Is it a message of the system or of the developer? message: an object in JSON."""
    if _has_role_first(message):
        return _is_system(message) is not None
    return (
        _ends_as_system(message[-TAIL:] if isinstance(message, bytes) else bytes(memoryview(message)[-TAIL:]))
        is not None
    )


def _without_marks(messages: Sequence[Any]) -> Sequence[Any]:
    """The messages without `cache_control` in their last blocks, if the client sends it."""
    for message in messages[-LATEST:]:
        if _MARK.search(_tail(message)):
            return [_without_mark(one) for one in messages]
    return messages


def _tail(message: Any) -> bytes:
    return bytes(memoryview(message)[-TAIL:])


def _without_mark(message: Any) -> Any:
    tail = _tail(message)
    cut: bytes = _MARK.sub(b"", tail)
    return message if cut == tail else b"".join([memoryview(message)[:-TAIL], cut])


def _without_billing(system: Any) -> Any:
    """A system prompt without the line that tells who pays."""
    head = bytes(memoryview(system)[:512])
    cut: bytes = _BILLING.sub(b"", head, count=1)
    return system if cut == head else b"".join([cut, memoryview(system)[512:]])


class Pieces:
    """A body in pieces, of which parts are shown without copying them."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    def show(self, spans: Sequence[tuple[int, int]]) -> list[Any]:
        """The bytes of each (begin, end); they are in order, and one that is in two pieces is copied."""
        shown: list[Any] = []
        index, offset = 0, 0
        for begin, end in spans:
            while begin >= offset + len(self._pieces[index]):
                offset += len(self._pieces[index])
                index += 1
            piece = self._pieces[index]
            view = memoryview(piece)[begin - offset : end - offset]
            if end <= offset + len(piece):
                shown.append(view)
            else:
                shown.append(self._joined(index, view, end - offset - len(piece)))
        return shown

    def _joined(self, index: int, view: memoryview, missing: int) -> bytes:
        parts: list[Any] = [view]
        while missing > 0:
            index += 1
            piece = self._pieces[index]
            parts.append(memoryview(piece)[:missing] if missing < len(piece) else piece)
            missing -= len(piece)
        return b"".join(parts)
