"""The field `model` of a request's body: the only one that routing reads, and the only one that is ever replaced.

It is replaced where an alias is in use, or where an engine has another name for the model. `stream` is read in the same
pass, since some engines ignore it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypedDict

import msgspec

from hierarchy.http.body_scan import CONTAINERS, FURTHER, MAX_MODEL_BYTES, MODEL, BodyScan, Found, folded
from hierarchy.http.json_scan import JsonScan
from hierarchy.http.multipart import FormScan
from hierarchy.http.prompt import FIELDS, SALT, Pieces, Prompt, is_null, plain_messages, prompt_of
from hierarchy.http.splice import Change, spliced

MAX_PLAIN: Final = 64 * 1024  # bytes of a body that is read by `plain_model`, which takes a millisecond at most
COPIED: Final = 4096  # bytes of a body whose parts are copied, which then costs less than to look at them in place
MAX_WRITTEN: Final = 12  # bytes of one character in JSON: two escapes
MAX_NAMES: Final = 64 * 1024  # bytes of a field that names further models


class _Name:
    """The value of a field that some reader takes for `model`. Each is passed to `_see`."""


_NAME: Final = _Name()
_seen: Final[list[Any]] = []  # what such fields of one body have, in their order


def _see(_type: Any, value: Any) -> Any:
    _seen.append(value)
    return _NAME


_CASES: Final = ["".join(letters) for letters in itertools.product(*((one, one.upper()) for one in MODEL))]
#: All other fields are skipped, but must be JSON. Not a class statement: compiled, its annotations would not be these.
#: Not a struct, which would set each of 31 fields that are not there to its default.
_Body: Final[Any] = TypedDict("_Body", {MODEL: _Name, "stream": Any, **dict.fromkeys(_CASES, _Name)}, total=False)  # type: ignore
_decode_body: Final[Any] = msgspec.json.Decoder(_Body, dec_hook=_see).decode
#: the same, with the parts of the prompt
_Raw: Final[Any] = msgspec.Raw
_READ: Final = {"stream": Any, **dict.fromkeys(FIELDS, _Raw), **dict.fromkeys(_CASES, _Name)}
_PromptBody: Final[Any] = TypedDict("_PromptBody", {MODEL: _Name, **_READ}, total=False)  # type: ignore
_decode_prompt: Final[Any] = msgspec.json.Decoder(_PromptBody, dec_hook=_see).decode


def plain_model(body: bytes) -> tuple[str, bool]:
    """The `model` of a JSON body without another field that looks like it, and whether its `stream` is true.

    "" for any other body. Most requests are like that, and this is the fastest way to see it: msgspec calls `_see` for
    each such field, a second `model` and one with escapes included. It does not see what only C's readers take for
    `model`, a name with a NUL in it; `JsonScan` does.
    """
    found = _plain(body, _decode_body)
    return ("", False) if found is None else (_seen[0], found.get("stream") is True)


def plain_prompt(body: bytes) -> tuple[str, bool, Prompt | None]:
    """`plain_model`, and the prompt of the body; None for no model."""
    found: dict[str, Any] | None = _plain(body, _decode_prompt)
    if found is None:
        return "", False, None
    if len(body) <= COPIED and len(found) == 2 + ("stream" in found) and "messages" in found:
        prompt = plain_messages(bytes(found["messages"]))
        if prompt is not None:
            return _seen[0], found.get("stream") is True, prompt
    fields: dict[str, Any] = {}
    for name, value in found.items():  # most bodies have few of the fields that are read
        if type(value) is _Raw:
            shown: Any = memoryview(value) if len(body) > COPIED else bytes(value)
            if not is_null(shown):
                fields[name] = shown
    return _seen[0], found.get("stream") is True, prompt_of(fields)


def _plain(body: bytes, decode: Any) -> Any:
    """A body that is as most are, decoded, with its model in `_seen`; else None."""
    if len(body) > MAX_PLAIN:
        return None
    _seen.clear()
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look at the bytes of strings that it skips
        found = decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if len(_seen) != 1 or MODEL not in found:
        return None
    model = _seen[0]
    if not isinstance(model, str) or len(model) > MAX_MODEL_BYTES // MAX_WRITTEN:
        return None
    return found


def prompt_in(pieces: Sequence[bytes], found: Found) -> Prompt:
    """The prompt of a body in pieces. found: in this body."""
    names = sorted(found.parts, key=found.parts.__getitem__)
    shown = Pieces(pieces).show([found.parts[name] for name in names])
    return prompt_of({name: value for name, value in zip(names, shown, strict=True) if not is_null(value)})


def scan_for(boundary: bytes) -> BodyScan:
    """What reads a body in pieces. boundary: of a multipart form; b"" for JSON."""
    return FormScan(boundary) if boundary else JsonScan()


def find_model(body: bytes, boundary: bytes = b"") -> Found:
    """The fields of a whole body that name models. boundary: as for `scan_for`.

    Raises:
        BadRequest: it is not JSON (or not that form), or does not name one model, to every reader the same.
    """
    scan = scan_for(boundary)
    scan.feed(body)
    return scan.finish()


def with_model(parts: Iterable[bytes], found: Found, name: str, *, is_form: bool) -> list[bytes]:
    """A body in pieces with its `model` replaced; every other byte is unchanged. found: in this body."""
    value = name.encode() if is_form else msgspec.json.encode(name)
    return spliced(parts, [(found.start, found.end, value)])


def salt_changes(found: Found, salt: bytes) -> list[Change]:
    """The changes after which every reader of a body finds this `cache_salt`. salt: as JSON.

    Of two equal names some readers take the first, and some the last.
    """
    if not found.salts:
        return [(found.end, found.end, b',"%b":%b' % (SALT.encode(), salt))]  # behind the model
    return [(begin, end, salt) for begin, end in found.salts]


def last_salt(pieces: Sequence[bytes], found: Found) -> bytes:
    """The value of the `cache_salt` that a body has, as JSON; b"" if it has none."""
    if not found.salts:
        return b""
    shown = Pieces(pieces).show([found.salts[-1]])[0]
    return b"" if is_null(shown) else bytes(shown)


def further_models(body: bytes, found: Found, *, is_form: bool) -> list[tuple[str, str]]:
    """The further models that a body names, each with its field; "" for one that is named in an unknown way."""
    names: list[tuple[str, str]] = []
    for field, start, end in found.further:
        value = body[start:end]
        if is_form:
            names += [(field, value.decode(errors="replace").strip())] if value.strip() else []
        elif end - start > MAX_NAMES:
            names.append((field, ""))
        else:
            names += [(field, name) for name in _names_in(msgspec.json.decode(value), folded(field), 8)]
    return names


def _names_in(value: Any, field: str, depth: int) -> list[str]:
    """The names of models in the value of a field that has them."""
    if not value:  # null, false, zero, nothing in it
        return []
    if isinstance(value, str):
        return [value]
    if depth and isinstance(value, list):
        return [name for one in value for name in _names_in(one, field, depth - 1)]
    if depth and isinstance(value, dict):
        inner = {folded(key): one for key, one in value.items()}
        named = [key for key in inner if key == MODEL or key in FURTHER]
        if named or field in CONTAINERS:
            return [name for key in named for name in _names_in(inner[key], key, depth - 1)]
    return [""]  # a number, such as llama.cpp's ids of adapters, or an object with models as keys
