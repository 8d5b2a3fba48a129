"""What an engine makes its prompt of, as bytes of a request's body: found in the pass that finds the model.

The order is that of chat templates: the system prompt, then the tools, then the messages. So what most requests have in
common comes first. Messages and prompts come without their closing quote or bracket, so that the bytes of a
conversation that grows at its end begin with those that it had.

Marks of caches, which move from message to message with each turn, are cut out; no engine sees them in its prompt.

Source: OpenAI API reference (`messages`, `tools`, `prompt`, `input`, `instructions`); Anthropic API reference
(`system`, `cache_control`); vLLM, protocol.py (`cache_salt`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

SALT: Final = "cache_salt"  # keeps what engines have in their caches apart
#: fields of a body that matter here
FIELDS: Final = (
    "messages", "system", "instructions", "tools", "prompt", "input", SALT, "prompt_cache_key",
    "previous_response_id", "user",
)  # fmt: skip
LATEST: Final = 256  # bytes at the end of the messages in which there is a mark, if the client sends any
MARKED: Final = 64 * 1024  # bytes at the end of the messages from which marks are cut out
BILLED: Final = 512  # bytes of a system prompt in which the line is that tells who pays
MAX_SHOWN: Final = 1024 * 1024  # bytes of one field; no fingerprint reaches further
_NULL: Final = b"null"
_BLANKS: Final = b" \t\r\n"
_BACKSLASH: Final = 0x5C
_BRACKET: Final = 0x5B
_BRACE: Final = 0x7D
_system_text: Final[Any] = re.compile(rb'\s*\{\s*"role"\s*:\s*"(?:system|developer)"\s*,\s*"content"\s*:\s*"').match
_system_ends: Final[Any] = re.compile(rb"\s*\}\s*,?").match
_other_role: Final[Any] = re.compile(rb'\s*\{\s*"role"\s*:\s*"(?!system"|developer")').match
_is_system: Final[Any] = re.compile(rb'\s*\{\s*"role"\s*:\s*"(?:system|developer)"').match
_decode_messages: Final[Any] = msgspec.json.Decoder(list[msgspec.Raw]).decode
_MARK: Final[Any] = re.compile(rb',\s*"cache_control"\s*:\s*(?:null|\{[^{}]*\})')
_BILLING: Final[Any] = re.compile(rb'x-anthropic-billing-header:[^"\\]*')  # of Claude Code; another one each time


class Prompt:
    """The prompt of one body. parts: buffers, in the order in which the engine reads them."""

    __slots__ = ("_messages", "cache_key", "cache_salt", "length", "parts", "previous", "user")

    def __init__(self, parts: list[Any], messages: Any, fields: Mapping[str, Any]) -> None:
        self.parts = parts
        length = 0
        for part in parts:
            length += len(part)
        self.length = length
        self._messages = messages
        # The values of fields, as they are written; b"" if one is not there.
        self.cache_salt = self.cache_key = self.previous = self.user = b""
        if len(fields) > 1:  # others than that with the prompt
            self.cache_salt = _value(fields, SALT)
            self.cache_key = _value(fields, "prompt_cache_key")
            self.previous = _value(fields, "previous_response_id")
            self.user = _value(fields, "user")

    @property
    def first(self) -> bytes:
        """The first message that is not the system's; b"" if there is none."""
        if self._messages is None:
            return b""
        for message in _elements(self._messages):
            raw = bytes(message)
            if not _is_system(raw):
                return raw
        return b""

    def __repr__(self) -> str:
        return f"<Prompt of {self.length} bytes>"


def _value(fields: Mapping[str, Any], name: str) -> bytes:
    value = fields.get(name)
    return b"" if value is None else bytes(value)


def is_null(value: Any) -> bool:
    """Is a field's value the same as if it was not there? value: a buffer."""
    return len(value) == 4 and bytes(value) == _NULL


def prompt_of(fields: Mapping[str, Any]) -> Prompt:
    """The prompt of a body. fields: the values of `FIELDS`, as memoryviews."""
    parts: list[Any] = []
    messages = fields.get("messages")
    if len(fields) == 1 and messages is not None and messages[0] == _BRACKET:  # as most are
        _add_messages(parts, _open(messages))
        return Prompt(parts, messages, fields)
    system, tools = fields.get("system"), fields.get("tools")
    if system is not None:
        parts.append(_without_billing(system))
    _add(parts, fields.get("instructions"))
    if messages is not None and messages[0] == _BRACKET:
        view = _open(messages)
        begin = 0
        if tools is not None:
            begin = leading_end(view)
            if begin:
                parts.append(view[:begin])
            parts.append(tools)
        _add_messages(parts, view[begin:] if begin else view)
    else:
        messages = None
        _add(parts, tools)
    for name in ("prompt", "input"):
        value = fields.get(name)
        if value is not None:
            parts.append(value[:-1])
    return Prompt(parts, messages, fields)


def _add(parts: list[Any], value: Any) -> None:
    if value is not None:
        parts.append(value)


def _open(messages: Any) -> Any:
    """The array without its brackets, and without the blanks before the closing one."""
    end = len(messages) - 1
    if messages[end - 1] != _BRACE:
        while end > 1 and messages[end - 1] in _BLANKS:
            end -= 1
    return messages[1:end]


def _elements(messages: Any) -> list[Any]:
    try:
        found: list[Any] = _decode_messages(messages)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    return found


def leading_end(messages: Any) -> int:
    """Where the system's messages at the beginning end. messages: an array without its brackets."""
    data, at = bytes(messages), 0
    while _system_text(data, at):
        end = _text_end(data, _system_text(data, at).end())
        closing = _system_ends(data, end)
        if closing is None:  # the message has more than its text
            return at + _slow_leading_end(data[at:])
        at = closing.end()
    return at if not _is_system(data, at) and _other_role(data, at) else at + _slow_leading_end(data[at:])


def _text_end(data: bytes, at: int) -> int:
    """The position behind the closing quote of the text that begins at `at`."""
    while True:
        at = data.find(b'"', at)
        if at < 0:
            return len(data)
        behind = at - 1
        while behind >= 0 and data[behind] == _BACKSLASH:
            behind -= 1
        at += 1
        if (at - behind) % 2 == 0:  # as many backslashes escape each other
            return at


def _slow_leading_end(data: bytes) -> int:
    """`leading_end` of messages that are written in another way than most."""
    end = 0
    for message in _elements(b"[%b]" % data):
        raw = bytes(message)
        if not _is_system(raw) and not _role_is_last(raw):
            break
        end = data.find(raw, end) + len(raw)
        comma = data.find(b",", end)
        end = comma + 1 if comma >= 0 and not data[end:comma].strip() else end
    return end


def _role_is_last(message: bytes) -> bool:
    return message[-64:].replace(b" ", b"").endswith((b'"role":"system"}', b'"role":"developer"}'))


def _add_messages(parts: list[Any], messages: Any) -> None:
    """The messages without `cache_control`, if the client sends it."""
    latest = bytes(messages[-LATEST:])
    if latest.find(b"_") < 0 or latest.find(b'"cache_control"') < 0:  # a single byte is found ten times as fast
        parts.append(messages)
        return
    if len(messages) > MARKED:
        parts.append(messages[:-MARKED])
    parts.append(_MARK.sub(b"", messages[-MARKED:]))


def _without_billing(system: Any) -> Any:
    """A system prompt without the line that tells who pays."""
    head = bytes(system[:BILLED])
    cut: bytes = _BILLING.sub(b"", head, count=1)
    return system if cut == head else b"".join([cut, system[BILLED:]])


class Pieces:
    """A body in pieces, of which parts are shown without copying them."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    def show(self, spans: Sequence[tuple[int, int]]) -> list[Any]:
        """The bytes of each (begin, end); they are in order, and one that is in two pieces is copied.

        Of one that is longer than `MAX_SHOWN`, only the beginning.
        """
        shown: list[Any] = []
        index, offset = 0, 0
        for begin, end in spans:
            end = min(end, begin + MAX_SHOWN)
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

    def _joined(self, index: int, view: memoryview, missing: int) -> memoryview:
        parts: list[Any] = [view]
        while missing > 0:
            index += 1
            piece = self._pieces[index]
            parts.append(memoryview(piece)[:missing] if missing < len(piece) else piece)
            missing -= len(piece)
        return memoryview(b"".join(parts))
