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

SALT: Final = "cache_salt"  # keeps what engines have in their caches apart
#: fields of a body that matter here
FIELDS: Final = (
    "messages", "system", "instructions", "tools", "prompt", "input", SALT, "prompt_cache_key",
    "previous_response_id", "user",
)  # fmt: skip
LATEST: Final = 256  # bytes at the end of the messages in which there is a mark, if the client sends any
MARKED: Final = 64 * 1024  # bytes at the end of the messages from which marks are cut out
BILLED: Final = 512  # bytes of a system prompt in which the line is that tells who pays
MOST_LEADING: Final = 64  # messages of the system at the beginning that are told from the others
FEW_QUOTES: Final = 64  # in a text, after each of which is looked whether it ends
MOST_TOKENS: Final = 4096  # texts and brackets of one message
MAX_SHOWN: Final = 1024 * 1024  # bytes of one field; no fingerprint reaches further
_NULL: Final = b"null"
_BLANKS: Final = b" \t\r\n"
_BACKSLASH: Final = 0x5C
_BRACKET: Final = 0x5B
_BRACE: Final = 0x7D
_OPEN_BRACE: Final = 0x7B
_QUOTE: Final = 0x22
_system_text: Final[Any] = re.compile(rb'\s*\{\s*"role"\s*:\s*"(?:system|developer)"\s*,\s*"content"\s*:\s*"').match
_system_ends: Final[Any] = re.compile(rb"\s*\}\s*,?").match
_blanks: Final[Any] = re.compile(rb"[ \t\r\n]*+").match
_comma: Final[Any] = re.compile(rb"(?:[ \t\r\n]*+,)?").match
_rest_of_text: Final[Any] = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL).match
#: a text, which may be cut off: else each quote in it would be tried as a beginning; or a bracket
_tokens: Final[Any] = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{}\[\]]', re.DOTALL).finditer
_other_role: Final[Any] = re.compile(rb'\s*\{\s*"role"\s*:\s*"(?!system"|developer")').match
_is_system: Final[Any] = re.compile(rb'\s*\{\s*"role"\s*:\s*"(?:system|developer)"').match
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
        data = bytes(self._messages)
        begin: int = _blanks(data, leading_end(data, 1)).end()
        end = _message_end(data, begin)
        return data[begin:end] if end > begin else b""

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
    system, tools, messages = fields.get("system"), fields.get("tools"), fields.get("messages")
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


def plain_messages(messages: bytes) -> Prompt | None:
    """The same as `prompt_of`, of a body with nothing but messages that are written as most are; None for any other."""
    end = len(messages) - 1
    if messages[0] != _BRACKET or messages[end - 1] != _BRACE or messages.find(b"_", max(0, end - LATEST)) >= 0:
        return None
    return Prompt([messages[1:end]], messages, {})


def _add(parts: list[Any], value: Any) -> None:
    if value is not None:
        parts.append(value)


def _open(messages: Any) -> Any:
    """The array without its brackets, and without the blanks before the closing one."""
    end = len(messages) - 1
    if messages[end - 1] != _BRACE:
        end = len(bytes(messages[:end]).rstrip(_BLANKS))
    return messages[1 : max(1, end)]


def leading_end(messages: Any, at: int = 0) -> int:
    """Where the system's messages at the beginning end. messages: from `at` on, an array without its bracket.

    Of more than `MOST_LEADING` of them, those behind them do not count.
    """
    data = bytes(messages)
    for _ in range(MOST_LEADING):
        text = _system_text(data, at)
        if text is None:
            if not _is_system(data, at) and _other_role(data, at):
                break  # nearly always
            end = _slow_end(data, at)
        else:
            end = _text_end(data, text.end())
            closing = _system_ends(data, end)
            # If there is none, the message has more than its text.
            end = closing.end() if closing is not None else _slow_end(data, at)
        if end < 0:
            break
        at = end
    return at


def _text_end(data: bytes, at: int) -> int:
    """The position behind the closing quote of the text that begins at `at`."""
    for _ in range(FEW_QUOTES):
        at = data.find(b'"', at)
        if at < 0:
            return len(data)
        behind = at - 1
        while behind >= 0 and data[behind] == _BACKSLASH:
            behind -= 1
        at += 1
        if (at - behind) % 2 == 0:  # as many backslashes escape each other
            return at
    end: int = _rest_of_text(data, at).end()  # slower, but not for each quote
    return end


def _slow_end(data: bytes, at: int) -> int:
    """Where a message of the system ends, however it is written, with the comma behind it; -1: it is another one."""
    start = _blanks(data, at).end()
    end = _message_end(data, start)
    if end < 0:
        return -1
    message = data[start:end]
    if not _is_system(message) and not _role_is_last(message):
        return -1
    closing: int = _comma(data, end).end()
    return closing


def _message_end(data: bytes, at: int) -> int:
    """The position behind the object that begins at `at`; -1 if there is none, or it is not a message."""
    if not data.startswith(b"{", at):
        return -1
    depth = 0
    for count, token in enumerate(_tokens(data, at)):
        first = data[token.start()]
        if first in (_OPEN_BRACE, _BRACKET):
            depth += 1
        elif first != _QUOTE:
            depth -= 1
            if not depth:
                end: int = token.end()
                return end
        if count == MOST_TOKENS:
            break
    return -1


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
