"""The field `model` of a request's body: the only one that routing reads, and the only one that is ever replaced.

It is replaced where an alias is in use, or where an engine has another name for the model. `stream` is read in the same
pass, since some engines ignore it.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from hierarchy.errors import BadRequest
from hierarchy.http.multipart import model_in, with_model_in

# Blanks, numbers and literals between two of these do not matter here.
_MARK: Final = re.compile(rb'["{}\[\],]').search
_COLON: Final = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*(?=")').match
_QUOTE: Final = 0x22
_BACKSLASH: Final = 0x5C
_BRACE: Final = 0x7B


class _Body(msgspec.Struct):
    """All other fields are skipped, but must be JSON."""

    model: str
    stream: msgspec.Raw = msgspec.Raw()


_decode_body: Final = msgspec.json.Decoder(_Body).decode


def model_of(body: bytes, boundary: bytes = b"") -> str:
    """The `model` of a request body. Takes and raises what `model_and_stream` does."""
    return model_and_stream(body, boundary)[0]


def model_and_stream(body: bytes, boundary: bytes = b"") -> tuple[str, bool]:
    """The `model` of a request body, and whether its `stream` is true. boundary: of a multipart form; b"" for JSON.

    Raises:
        BadRequest: it is not JSON (or not that form), has no `model`, or one that is not a string.
    """
    if boundary:
        return model_in(body, boundary), False
    try:
        found = _decode_body(body)
        return found.model, bytes(found.stream) == b"true"
    except msgspec.ValidationError as error:
        if "$.model" in str(error):
            raise BadRequest("'model' must be a string", param="model") from None
        if "missing required field" in str(error):
            raise BadRequest("the body has no 'model'; name one of GET /v1/models", param="model") from None
        raise BadRequest("the body must be a JSON object with a 'model'", param="model") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the body cannot be read as JSON: it is nested too deeply") from None


def with_model(body: bytes, name: str, boundary: bytes = b"") -> bytes:
    """A JSON object with its top-level `model` replaced; every other byte is unchanged.

    boundary: of a multipart form, whose `model` is replaced instead; raises as `with_model_in`. b"" for JSON.

    If `model` occurs more than once, each is replaced, since readers differ in which one they use. A `model` that is
    not a string, or is nested deeper, is unchanged, and so is a body that is not a JSON object. Strings are skipped by
    a search for their end, and nothing is read behind the last `model`, so images in a body cost almost nothing.
    """
    if boundary:
        return with_model_in(body, boundary, name)
    value = msgspec.json.encode(name)
    parts: list[bytes] = []
    done = position = depth = 0
    is_key = False  # whether a string here would be a key, if this is an object
    while mark := _MARK(body, position):
        start, position = mark.span()
        sign = body[start]
        if sign == _QUOTE:
            position = _string_end(body, start)
            if is_key and depth == 1 and _is_model(body[start:position]) and (colon := _COLON(body, position)):
                position = _string_end(body, colon.end())
                parts += [body[done : colon.end()], value]
                done = position
                if not _may_follow(body, position):
                    break
            is_key = False
        elif sign in b"{[":
            if not depth and sign != _BRACE:
                return body
            depth += 1
            is_key = sign == _BRACE
        elif sign in b"}]":
            depth -= 1
        else:  # a comma
            is_key = True
    return b"".join([*parts, body[done:]]) if parts else body


def _string_end(body: bytes, start: int) -> int:
    """The position behind the closing quote of the string that opens at `start`; the body's end if there is none."""
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
    """Whether the key could occur again behind `position`, plain or with any of its letters as \\u00XX."""
    return body.find(b'"model"', position) >= 0 or body.find(b"\\u00", position) >= 0
