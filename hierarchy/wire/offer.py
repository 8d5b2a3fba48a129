"""Which labels the engines below a child have, model by model: the field `labels` of its messages.

See `hierarchy.labels` for what a set is. Most models of a child have the same sets, and most children say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hierarchy.errors import InvalidField
from hierarchy.names import MAX_NAME
from hierarchy.wire.limits import DEFAULT, MODEL_BYTES, NAMED, ChildLimits, text_bytes


class Offer(msgspec.Struct, frozen=True):
    """What can be required of the engines that serve some models."""

    #: sets of labels, one for each kind of engine that serves these models; none: no label can be required
    sets: list[dict[str, str]] = []
    #: names; None: all that no other offer names
    models: list[str] | None = None


NOTHING = Offer()  #: whatever is required, the child cannot promise it


def weight_of_offers(offers: Sequence[Offer]) -> int:
    """At most how many bytes they are."""
    total = 0
    for offer in offers:
        names = offer.models or ()
        total += MODEL_BYTES * (len(names) + 1) + NAMED * text_bytes(names)
        for one in offer.sets:
            total += 4 + text_bytes([*one, *one.values()])
    return total


def check_offers(field: str, offers: Sequence[Offer], limits: ChildLimits = DEFAULT) -> None:
    """Raise `InvalidField` if they are too much, or name what is no model. What the sets contain is not checked."""
    if weight_of_offers(offers) > limits.model_bytes:
        raise InvalidField(field, f"is more than {limits.model_bytes} bytes; the limit grows with `max_body_bytes`")
    for number, offer in enumerate(offers):
        if any(not 0 < len(name) <= MAX_NAME for name in offer.models or ()):
            raise InvalidField(f"{field}[{number}].models", f"has a name that is empty or above {MAX_NAME} characters")
