"""The one field of a body that is ever changed: `model`, where an alias or an engine has another name for it."""

from __future__ import annotations

import re

import msgspec

from hierarchy.http.multipart import with_model_in

# Between two of these stand blanks, numbers and words, which do not matter here.
_MARK = re.compile(rb'["{}\[\],]')
_COLON = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*(?=")')
_QUOTE, _BACKSLASH, _OPEN = b'"\\{'


def with_model(body: bytes, name: str, boundary: bytes = b"") -> bytes:
    """A JSON object with its top-level `model` replaced, and every other byte as it was.

    boundary: then it is a multipart form; raises as `form.with_model_in`.
    Where `model` stands more than once, each is replaced: readers differ in which of them they take. A `model` that is
    no text, or is none of this object's own, stays, and so does what is no JSON object. Strings are skipped by search
    for their end, and nothing is looked at behind the last `model`, so that images in a body cost next to nothing.
    """
    if boundary:
        return with_model_in(body, boundary, name)
    value = msgspec.json.encode(name)
    parts: list[bytes] = []
    done = position = depth = 0
    is_key = False  # whether a string would be a key, if this is an object
    while mark := _MARK.search(body, position):
        start, position = mark.span()
        sign = body[start]
        if sign == _QUOTE:
            position = _string_end(body, start)
            if is_key and depth == 1 and _is_model(body[start:position]) and (colon := _COLON.match(body, position)):
                position = _string_end(body, colon.end())
                parts += [body[done : colon.end()], value]
                done = position
                if not _may_follow(body, position):
                    break
            is_key = False
        elif sign in b"{[":
            if not depth and sign != _OPEN:
                return body
            depth += 1
            is_key = sign == _OPEN
        elif sign in b"}]":
            depth -= 1
        else:  # a comma
            is_key = True
    return b"".join([*parts, body[done:]]) if parts else body


def _string_end(body: bytes, start: int) -> int:
    """Behind the closing quote of the string that opens at `start`; the body's end if there is none."""
    quote = start
    while (quote := body.find(b'"', quote + 1)) >= 0:
        before = quote - 1
        while body[before] == _BACKSLASH:
            before -= 1
        if (quote - before) % 2:  # an even number of backslashes: they escape each other, not the quote
            return quote + 1
    return len(body)


def _is_model(key: bytes) -> bool:
    if key == b'"model"':
        return True
    if b"\\" not in key:
        return False
    try:
        return bool(msgspec.json.decode(key) == "model")
    except msgspec.DecodeError:
        return False


def _may_follow(body: bytes, position: int) -> bool:
    """Whether the key could stand once more behind `position`, plain or with any of its letters as \\u00XX."""
    return body.find(b'"model"', position) >= 0 or body.find(b"\\u00", position) >= 0
