"""The fields of a JSON object that name models, found in one pass over the body's pieces.

The pass checks the grammar of all of the body, so that no reader can take a part of it for something else, and stops at
nothing that is nested. It is compiled (docs/explanation/compiled.md); where it is not, what is long in ordinary
requests, texts, images and numbers of tokens, is skipped by regular expressions.

Source: RFC 8259.
"""

from __future__ import annotations

import codecs
import re
from typing import Any, Final

import msgspec
from mypy_extensions import i64

from hierarchy.errors import BadRequest
from hierarchy.http.body_scan import FURTHER, MAX_MODEL_BYTES, MODEL, BodyScan, Found, folded, no_model
from hierarchy.http.prompt import FIELDS, SALT

MAX_DEPTH: Final = 128  # levels; serde_json has the same limit
MAX_FIELDS: Final = 1024  # of the object itself; OpenAI's largest request has about 40
MAX_KEY: Final = 256  # bytes of the name of such a field
MAX_DIGITS: Final = 256  # of each part of a number; Python's `json` reads 4,300
SMALL: Final = 4096  # bytes; smaller pieces are collected first

# What is expected next.
_VALUE: Final = 0
_FIRST_VALUE: Final = 1  # or the end of the array
_KEY: Final = 2
_FIRST_KEY: Final = 3  # or the end of the object
_COLON: Final = 4
_COMMA: Final = 5  # or the end of the array or object
_IN_STRING: Final = 6  # the rest of a nested string
_NOTHING: Final = 7  # the object is complete

# What a field of the object itself is.
_OTHER: Final = 0
_IS_MODEL: Final = 1
_IS_FURTHER: Final = 2
_IS_STREAM: Final = 3
_IS_PROMPT: Final = 4  # a part of the prompt, or what else its fingerprint depends on
#: names that need no closer look
_KNOWN: Final = {
    b"model": _IS_MODEL,
    b"stream": _IS_STREAM,
    **dict.fromkeys(
        b"max_tokens max_completion_tokens temperature top_p top_k n stop stream_options tool_choice response_format "
        b"seed metadata logprobs max_new_tokens echo".split(),
        _OTHER,
    ),
    **{name.encode(): _IS_PROMPT for name in FIELDS},
}
#: Compiled code looks at 500 million bytes a second, which is more than a regular expression does.
_SKIPS: Final = __file__.endswith(".py")
_LOOK: Final = 24 if _SKIPS else 1 << 40  # bytes of a string that are looked at singly, before the rest is skipped
_PLAIN: Final = re.compile(rb'[^"\\\x00-\x1f]*+').match
_RUN_AFTER: Final = 4 if _SKIPS else 1 << 40  # numbers in a row, before all that follow are skipped
_NUMBERS: Final = re.compile(
    rb"(?:-?+(?:0|[1-9][0-9]{0,255}+)(?:\.[0-9]{1,256}+)?+(?:[eE][+-]?+[0-9]{1,256}+)?+[ \t\r\n]*+,[ \t\r\n]*+)*+"
).match


class JsonScan(BodyScan):
    """One pass over a JSON object."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = b""  # of the pieces so far, which ended inside a token
        self._offset = 0  # of `_rest` in the body
        self._utf8: Any = None  # decodes a text that is not all ASCII; None between characters
        self._state = _VALUE
        self._depth = 0
        self._stop = 0  # see `_string_end`
        self._in_object = [False, False]  # by depth, as deep as it was
        self._string_is_key = False  # the nested string that is being read
        self._fields = 0
        self._kind = _OTHER  # of the field whose value is being read
        self._name = ""
        self._value_start = 0
        self._model = ""
        self._start = self._end = -1
        self._further: list[tuple[str, int, int]] = []
        self._streams = False
        self._parts: dict[str, tuple[int, int]] = {}  # the values of `prompt.FIELDS`
        self._salts: list[tuple[int, int]] = []

    def feed(self, piece: bytes) -> None:
        """The next bytes of the body."""
        if self.refused:
            return
        if self._utf8 is not None or not piece.isascii():
            self._check_utf8(piece)
        data = self._rest + piece if self._rest else piece
        if len(data) < SMALL:
            self._rest = data
        else:
            self._scan(data)

    def finish(self) -> Found:
        """All of the body has come. Raises as `BodyScan.finish`."""
        if self.error is None and self._rest:
            self._scan(self._rest)
        if self.error is not None:
            raise self.error
        if self._state != _NOTHING or self._rest or self._utf8 is not None:
            raise BadRequest("the body is not JSON: it is empty, or ends too early")
        if self._start < 0:
            raise no_model("body")
        found = Found(self._model, self._start, self._end, self._further, self._streams)
        found.parts, found.salts = self._parts, self._salts
        return found

    def _check_utf8(self, piece: bytes) -> None:
        if self._utf8 is None:
            self._utf8 = codecs.getincrementaldecoder("utf-8")()
        try:
            self._utf8.decode(piece)
        except UnicodeDecodeError:
            self.refuse("the body is not JSON: it is not UTF-8")
            return
        if not self._utf8.getstate()[0]:
            self._utf8 = None

    def _scan(self, data: bytes) -> None:
        """Go on with `_rest` and what follows it."""
        pos = self._walk(data)
        self._offset += pos
        self._rest = b"" if self.refused else data[pos:]

    def _walk(self, data: bytes) -> int:
        """Read as many tokens as are complete. Returns where the first one begins that is not; it sets `error`."""
        n: i64 = len(data)
        pos: i64 = 0
        state: i64 = self._state
        depth: i64 = self._depth
        numbers: i64 = 0  # in a row
        in_object = self._in_object
        if state == _IN_STRING:
            pos = self._string_end(data, 0, n)
            if pos < 0:
                return self._stop
            state = _COLON if self._string_is_key else _COMMA
        while pos < n and not self.refused:
            c: i64 = data[pos]
            if c == 0x20 or c == 0x0A or c == 0x0D or c == 0x09:
                pos += 1
            elif state == _COMMA:
                pos += 1
                if c == 0x2C:
                    if depth == 1 and self._kind != _OTHER:
                        self._value_ends(pos - 1)
                    state = _KEY if in_object[depth] else _VALUE
                elif c == (0x7D if in_object[depth] else 0x5D):
                    if depth == 1 and self._kind != _OTHER:
                        self._value_ends(pos - 1)
                    depth -= 1
                    state = _COMMA if depth else _NOTHING
                else:
                    self._unexpected(pos - 1)
            elif state == _COLON:
                if c != 0x3A:
                    self._unexpected(pos)
                pos += 1
                state = _VALUE
            elif state in (_KEY, _FIRST_KEY):
                if c == 0x22:
                    end = self._string_end(data, pos + 1, n)
                    if depth == 1:
                        if end < 0 and n - pos <= MAX_KEY + 2:
                            break
                        if end < 0 or end - pos > MAX_KEY + 2:
                            self.refuse(f"the name of a field of the body is longer than {MAX_KEY} bytes")
                            break
                        self._field_begins(data[pos + 1 : end - 1])
                    elif end < 0:
                        self._string_is_key, state = True, _IN_STRING
                        pos = self._stop
                        break
                    pos = end
                    state = _COLON
                elif c == 0x7D and state == _FIRST_KEY:
                    pos += 1
                    depth -= 1
                    state = _COMMA if depth else _NOTHING
                else:
                    self._unexpected(pos)
            elif state == _NOTHING:
                self.refuse("the body is not JSON: there is something behind the object")
            else:  # a value
                if depth == 1:
                    if self._kind == _IS_MODEL and c != 0x22:
                        self.refuse("'model' must be a string", MODEL)
                        break
                    self._value_start = self._offset + pos
                elif not depth and c != 0x7B:
                    self._no_object(c, pos)
                    break
                if c == 0x22:
                    end = self._string_end(data, pos + 1, n)
                    if depth == 1 and self._kind == _IS_MODEL:
                        if end < 0 and n - pos <= MAX_MODEL_BYTES:
                            break
                        if end < 0 or end - pos > MAX_MODEL_BYTES:
                            self.refuse("'model' must be the name of a model", MODEL)
                            break
                        self._take_model(data[pos:end])
                    elif end < 0:
                        self._string_is_key, state = False, _IN_STRING
                        pos = self._stop
                        break
                    pos = end
                    state = _COMMA
                    numbers = 0
                elif c == 0x7B or c == 0x5B:
                    depth += 1
                    if depth > MAX_DEPTH:
                        self.refuse(f"the body is nested more than {MAX_DEPTH} levels deep")
                        break
                    if depth == len(in_object):
                        in_object.append(c == 0x7B)
                    else:
                        in_object[depth] = c == 0x7B
                    state = _FIRST_KEY if c == 0x7B else _FIRST_VALUE
                    pos += 1
                    numbers = 0
                elif c == 0x5D and state == _FIRST_VALUE:
                    depth -= 1
                    state = _COMMA
                    pos += 1
                elif c == 0x2D or (c >= 0x30 and c <= 0x39):
                    if numbers >= _RUN_AFTER and not in_object[depth]:
                        numbers = 0
                        run = _run_end(data, pos)
                        if run > pos:
                            state = _VALUE
                            pos = run
                            continue
                    end = _number_end(data, pos, n)
                    if end == n:
                        break
                    if end < 0:
                        self.refuse(
                            f"the body is not JSON: the number at byte {self._offset + pos} is malformed, "
                            f"or has more than {MAX_DIGITS} digits"
                        )
                        break
                    pos = end
                    state = _COMMA
                    numbers += 1
                else:
                    end = _literal_end(data, pos, n)
                    if end == 0:
                        break
                    if end < 0:
                        self._unexpected(pos)
                        break
                    if depth == 1 and self._kind == _IS_STREAM:
                        self._streams = c == 0x74
                    pos = end
                    state = _COMMA
                    numbers = 0
        self._state = state
        self._depth = depth
        return pos

    def _string_end(self, data: bytes, pos: i64, n: i64) -> i64:
        """The position behind the closing quote of the string that `pos` is in; -1 if it is not there.

        Then `_stop` is where the next piece has to begin: at the end, or at an escape that is cut.
        """
        enough: i64 = _LOOK
        look: i64 = enough
        while pos < n:
            c: i64 = data[pos]
            if c == 0x22:
                return pos + 1
            if c == 0x5C:
                if pos + 1 >= n:
                    break
                c = data[pos + 1]
                if c == 0x75:
                    if pos + 6 > n:
                        break
                    if not _is_hex(data, pos + 2):
                        self._unexpected(pos)
                    pos += 6
                else:
                    if not _is_escape(c):
                        self._unexpected(pos)
                    pos += 2
                look = enough
            elif c < 0x20:
                self._unexpected(pos)
                pos += 1
            elif look > 0:
                look -= 1
                pos += 1
            else:
                pos = _plain_end(data, pos)
                look = enough
        self._stop = pos
        return -1

    # -- the object's own fields ---------------------------------------------------------------------------------

    def _field_begins(self, raw: bytes) -> None:
        """The name of a field. raw: between its quotes."""
        self._fields += 1
        if self._fields > MAX_FIELDS:
            self.refuse(f"the body has more than {MAX_FIELDS} fields")
        kind = _KNOWN.get(raw)
        if kind == _IS_PROMPT:
            self._name = raw.decode()
        self._kind = self._kind_of(raw) if kind is None else kind
        if self._kind == _IS_MODEL and self._start >= 0:
            self.refuse("the body has more than one 'model'; send it once", MODEL)

    def _kind_of(self, raw: bytes) -> int:
        try:
            name: str = msgspec.json.decode(b'"%b"' % raw, type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.refuse("the body is not JSON: the name of a field has half of a surrogate pair")
            return _OTHER
        if name.partition("\0")[0].casefold() == MODEL:
            self.refuse(
                f"some readers take the field {ascii(name)[:80]} for 'model'; send 'model' once, as it is written here",
                MODEL,
            )
        elif folded(name) in FURTHER:
            self._name = name
            return _IS_FURTHER
        if name in FIELDS:  # written with escapes
            self._name = name
            return _IS_PROMPT
        return _OTHER

    def _take_model(self, raw: bytes) -> None:
        """The value of `model`, with its quotes."""
        try:
            self._model = msgspec.json.decode(raw, type=str)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.refuse(f"'model' is not text: {error}", MODEL)
            return
        self._start = self._value_start
        self._end = self._start + len(raw)

    def _value_ends(self, pos: i64) -> None:
        """The comma or brace at `pos` ends the value of a field that matters."""
        if self._kind == _IS_FURTHER:
            self._further.append((self._name, self._value_start, self._offset + pos))
        elif self._kind == _IS_PROMPT:
            self._parts[self._name] = self._value_start, self._offset + pos
            if self._name == SALT:
                self._salts.append((self._value_start, self._offset + pos))
        self._kind = _OTHER

    # -- errors --------------------------------------------------------------------------------------------------

    def _unexpected(self, pos: i64) -> None:
        self.refuse(f"the body is not JSON: it is malformed at byte {self._offset + pos}")

    def _no_object(self, c: i64, pos: i64) -> None:
        if c in b'["-0123456789tfn':
            self.refuse("the body must be a JSON object with a 'model'", MODEL)
        else:
            self._unexpected(pos)


def _plain_end(data: bytes, pos: i64) -> i64:
    found: Any = _PLAIN(data, pos)
    end: int = found.end()
    return end


def _run_end(data: bytes, pos: i64) -> i64:
    """The position behind a row of numbers with commas behind them."""
    found: Any = _NUMBERS(data, pos)
    end: int = found.end()
    return end


def _number_end(data: bytes, pos: i64, n: i64) -> i64:
    """The position behind the number at `pos`; `n` if more of it may come; -1 if it is malformed or too long."""
    if data[pos] == 0x2D:
        pos += 1
        if pos == n:
            return n
    end: i64 = pos + 1 if data[pos] == 0x30 else _digits_end(data, pos, n)
    if end >= 0 and end < n and data[end] == 0x2E:
        end = _digits_end(data, end + 1, n)
    if end >= 0 and end < n and (data[end] == 0x65 or data[end] == 0x45):
        end += 1
        if end < n and (data[end] == 0x2B or data[end] == 0x2D):
            end += 1
        end = _digits_end(data, end, n)
    return end


def _digits_end(data: bytes, pos: i64, n: i64) -> i64:
    """The position behind one to `MAX_DIGITS` digits; -1 if there are none, or more. `n` if more may come."""
    if pos >= n:
        return n
    begin: i64 = pos
    while pos < n and data[pos] >= 0x30 and data[pos] <= 0x39:
        pos += 1
    return -1 if pos == begin or pos - begin > MAX_DIGITS else pos


def _literal_end(data: bytes, pos: i64, n: i64) -> i64:
    """The position behind `true`, `false` or `null`; 0 if more of it may come; -1 if it is something else."""
    c = data[pos]
    word = b"true" if c == 0x74 else b"false" if c == 0x66 else b"null" if c == 0x6E else b""
    if not word:
        return -1
    size: i64 = len(word)
    if n - pos < size:
        return 0 if word.startswith(data[pos:n]) else -1
    return pos + size if data[pos : pos + size] == word else -1


def _is_escape(c: i64) -> bool:
    return (
        c == 0x22 or c == 0x5C or c == 0x2F or c == 0x6E or c == 0x72 or c == 0x74 or c == 0x62 or c == 0x66
    )  # fmt: skip


def _is_hex(data: bytes, pos: i64) -> bool:
    """Are there four hex digits?"""
    end: i64 = pos + 4
    while pos < end:
        c: i64 = data[pos]
        if not ((c >= 0x30 and c <= 0x39) or (c >= 0x41 and c <= 0x46) or (c >= 0x61 and c <= 0x66)):
            return False
        pos += 1
    return True
