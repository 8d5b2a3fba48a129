"""Large messages are decoded and checked in steps: one of 12 MB would hold a node for half a second.

A site's registration carries all that is below it. Only that can be so large, so only `children` is read in pieces.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from hierarchy.errors import BadRequest, BodyTooLarge, InvalidField
from hierarchy.runtime.steps import Steps
from hierarchy.wire.limits import ChildLimits, Weight, values_in, weight_of
from hierarchy.wire.messages import NodeFields, decode, invalid_field
from hierarchy.wire.subtree import rejection_steps

LARGE_BYTES = 256 * 1024  #: a smaller message is read at once, in 10 ms at most
PIECE_BYTES = 16 * 1024  #: of JSON that is decoded at once
MAX_SPLITS = 12  #: levels of nested JSON that are split; each is scanned once more
M = TypeVar("M", bound=NodeFields)


class Children(NamedTuple):
    """The field `children` of a message, which has been checked."""

    value: dict[str, Any]
    weight: Weight
    is_too_large: bool = False  #: to be kept, so that it was not decoded, and `value` is empty


def decode_steps(body: bytes | bytearray, kind: type[M], limits: ChildLimits) -> Steps[tuple[M, Children | None]]:
    """`messages.decode` of a registration or report, which may be large.

    The second is None if the message is small or has no children; then nothing was checked. What is too large to be
    kept below one child is not decoded.

    Raises:
        BodyTooLarge, BadRequest, InvalidField: as `messages.decode`, but not always with the field's name.
    """
    if len(body) <= LARGE_BYTES:
        return decode(body, kind, limits.message_values), None
    yield
    values = 0
    for start in range(0, len(body), LARGE_BYTES):
        values += values_in(body[start : start + LARGE_BYTES])
        yield
    if values > limits.message_values:
        raise BodyTooLarge(f"the body has more than {limits.message_values} values, the limit of this node")
    try:
        message = msgspec.json.decode(body, type=_shallow(kind))
        yield
        text = bytes(message.children)
        weight = weight_of(text)
        is_too_large = text.startswith(b"{") and not weight.fits(limits)
        children = {} if is_too_large else (yield from _value(message.children, 0))
    except msgspec.ValidationError as error:
        raise invalid_field(error) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(children, dict | None):
        raise InvalidField("children", "expected `object | null`")
    if reason := (yield from rejection_steps(children)):
        raise InvalidField("children", reason)
    fields = {field: getattr(message, field) for field in kind.__struct_fields__}
    whole = kind(**{**fields, "children": children})
    return whole, None if children is None else Children(children, weight, is_too_large)


@cache
def _shallow(kind: type[NodeFields]) -> Any:
    """The same record, with `children` as text."""
    text = ("children", msgspec.Raw, msgspec.Raw(b"null"))
    return msgspec.defstruct(f"Shallow{kind.__name__}", [text], bases=(kind,), frozen=True, kw_only=True)


def _value(text: msgspec.Raw, depth: int) -> Steps[Any]:
    """The value of a JSON text, decoded piece by piece."""
    view = memoryview(text)
    yield
    if len(view) > PIECE_BYTES and depth < MAX_SPLITS:
        if view[0] == ord("{"):
            made = {}
            for key, part in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items():
                made[key] = yield from _value(part, depth + 1)
            return made
        if view[0] == ord("["):
            items = []
            for part in msgspec.json.decode(text, type=list[msgspec.Raw]):
                items.append((yield from _value(part, depth + 1)))
            return items
    return msgspec.json.decode(text)
