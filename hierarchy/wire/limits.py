"""How much one child may say, so that what it makes its parent say never becomes too long for the parent's own parent.

A node sends its parents the sum of what its children sent. A site that lists 260,000 models, in 4 MB, would make that
sum 37 MB: the root refuses it, and with it all the site's siblings. So each part of a child's message has a share of
the longest message that a node accepts. Nodes of one tree have the same `max_body_bytes` unless somebody changes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

MAX_BODY_BYTES = 32 * 1024 * 1024  #: the default of `max_body_bytes`
MODEL_BYTES = 200  #: of one model beside its name: a row in the report, one in `/tree`, and a name in a list
NAMED = 3  #: how often they contain its name
ENTRY_VALUES, ROW_VALUES = 32, 10  #: of JSON, of one child and one model in `/tree`, at most
OBJECT, ITEM = 200, 50  #: bytes of memory of an object, and of an item beside its text
SMALLEST_PART = 64  #: an instance of a replicated node may always have this part of the node's share
SMALL = 64 * 1024  #: bytes of a message whose values need not be counted


class ChildLimits(msgspec.Struct, frozen=True):
    """The limits for one child."""

    #: values of JSON in one message; each takes up to 120 bytes of memory
    message_values: int
    #: of what is below the child, as JSON
    subtree_bytes: int
    #: the same
    subtree_values: int
    #: of all models as a parent repeats them
    model_bytes: int
    #: of the instances below it
    path_bytes: int
    #: how many there may be
    instances: int
    #: of memory for what is below it
    memory_bytes: int

    @property
    def group_models(self) -> int:
        """Of all instances of a replicated node."""
        return 2 * self.model_bytes // MODEL_BYTES

    @property
    def instance_models(self) -> int:
        """What one instance may always have, whatever the others have; the same below."""
        return max(8, self.group_models // SMALLEST_PART)

    @property
    def group_path(self) -> int:
        """Of all instances of a replicated node."""
        return 2 * self.instances

    @property
    def instance_path(self) -> int:
        """What one may always have."""
        return max(8, self.group_path // SMALLEST_PART)


def limits(max_body_bytes: int = MAX_BODY_BYTES) -> ChildLimits:
    """The limits of a node that accepts messages of this length.

    By default a child may have 13,000 models with names of 33 characters, and 10,000 engines below it.
    """
    return ChildLimits(
        message_values=max(2000, max_body_bytes // 80),
        subtree_bytes=max_body_bytes // 4,
        subtree_values=max(1000, max_body_bytes // 128),
        model_bytes=max(16 * 1024, max_body_bytes // 8),
        path_bytes=max(4096, max_body_bytes // 32),
        instances=max(64, max_body_bytes // 4096),
        memory_bytes=max(256 * 1024, max_body_bytes * 3 // 4),
    )


DEFAULT = limits()


class Weight(NamedTuple):
    """How much a JSON value is, at most; of memory about, since equal texts may be one object or several."""

    bytes: int = 0
    values: int = 0
    memory: int = 0

    def plus(self, other: Weight) -> Weight:
        """Both together."""
        return Weight(self.bytes + other.bytes, self.values + other.values, self.memory + other.memory)

    def fits(self, limits: ChildLimits, others: Weight | None = None) -> bool:
        """Is it within a child's share of what is below it?

        others: what instances of the same node have below them. All have one share, and each at least a small part.
        """
        most = Weight(limits.subtree_bytes, limits.subtree_values, limits.memory_bytes)
        taken = others or NO_WEIGHT
        return all(
            own <= max(limit // SMALLEST_PART, limit - used) for own, limit, used in zip(self, most, taken, strict=True)
        )


NO_WEIGHT = Weight()


def weigh(value: Any) -> Weight:
    """The weight of a value."""
    return weight_of(msgspec.json.encode(value))


def weight_of(text: bytes | bytearray) -> Weight:
    """The weight of a JSON text. An object takes some 200 bytes of memory, an item 50 beside its text."""
    commas, objects = text.count(b","), text.count(b"{")
    return Weight(len(text), commas + objects + text.count(b"[") + 1, 2 * len(text) + OBJECT * objects + ITEM * commas)


def values_in(body: bytes | bytearray) -> int:
    """At most how many values a JSON text has; commas and brackets in text count, too."""
    return body.count(b",") + body.count(b"[") + body.count(b"{") + 1


def text_bytes(texts: Iterable[str]) -> int:
    """At most how many bytes the texts have together, with their quotation marks."""
    return sum(3 + (len(text) if text.isascii() else 4 * len(text)) for text in texts)
