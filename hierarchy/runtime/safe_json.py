"""JSON from other machines: decoded once, in one way, and only if what comes out can be used without care.

A few kilobytes of JSON can end the program that reads them: brackets that are nested a thousand deep exhaust the stack
of whatever walks over them later, a number of 400 digits fits into no float, and `[],[],` takes thirty times its size
in memory. `decode` refuses all three, so that a value which it returns can be walked, added and encoded again.
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

import msgspec

from hierarchy.errors import NotJson

MAX_LEVELS = 200  #: nested arrays and objects; `/tree` of 64 levels of nodes has 192
MAX_VALUES = 500_000  #: values in all; a list of 10,000 models from vLLM has half as many
MAX_NUMBER = 10**300  #: so that it is a float, too, and so are sums of many
_DIGITS = bytes(48 if 48 <= code <= 57 else 32 for code in range(256))  # each digit as "0", all else as " "
_LONG_NUMBER = b"0" * 300  # found ten times as fast as a regular expression finds digits
_SCALARS = frozenset({str, int, float, bool, type(None)})
T = TypeVar("T")


@overload
def decode(body: bytes | bytearray, *, max_values: int = MAX_VALUES) -> Any: ...


@overload
def decode(body: bytes | bytearray, kind: type[T], *, max_values: int = MAX_VALUES) -> T: ...


def decode(body: bytes | bytearray, kind: Any = Any, *, max_values: int = MAX_VALUES) -> Any:
    """The value of one JSON text.

    Args:
        kind: the expected type, as msgspec has it; None in place of a value is not an error by itself.
        max_values: how many values there may be in it; commas inside text count, too.

    Raises:
        NotJson: it is not JSON, not of that type, nested too deep, has too many values, or a number that is too large.
    """
    opened = body.count(b"[") + body.count(b"{")
    if opened + body.count(b",") > max_values:
        raise NotJson(f"it has more than {max_values} values")
    try:
        value = msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise NotJson(f"it is nested deeper than {MAX_LEVELS} levels") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise NotJson(str(error)) from None
    if opened > MAX_LEVELS and _is_deeper(value, MAX_LEVELS):
        raise NotJson(f"it is nested deeper than {MAX_LEVELS} levels")
    if _LONG_NUMBER in body.translate(_DIGITS) and _has_long_number(value):
        raise NotJson("a number in it has more than 300 digits")
    return value


def _is_deeper(value: object, levels: int) -> bool:
    """Whether arrays and objects are nested deeper than this. Records of msgspec count as one value."""
    level = [value]
    for _ in range(levels):
        level = [item for item in _below(level) if type(item) not in _SCALARS]
        if not level:
            return False
    return any(isinstance(item, dict | list) for item in level)


def _has_long_number(value: object) -> bool:
    level = [value]
    while level:
        if any(type(item) is int and abs(item) > MAX_NUMBER for item in level):
            return True
        level = _below(level)
    return False


def _below(level: list[object]) -> list[object]:
    """What the arrays, objects and records of one level contain."""
    below: list[object] = []
    for item in level:
        if isinstance(item, dict):
            below += item.values()
        elif isinstance(item, list | tuple):
            below += item
        elif isinstance(item, msgspec.Struct):
            below += [getattr(item, field) for field in item.__struct_fields__]
    return below
