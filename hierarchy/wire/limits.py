"""How much one child may say, so that what it makes its parent say never becomes too long for the parent's own parent.

A node sends its parents the sum of what its children sent. A site that lists 260,000 models, in 4 MB, would make that
sum 37 MB: the root refuses it, and with it all the site's siblings. So each part of a child's message has a share of
the longest message that a node accepts. Nodes of one tree have the same `max_body_bytes` unless somebody changes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

MAX_BODY_BYTES = 32 * 1024 * 1024  #: the default of `max_body_bytes`
MODEL_BYTES = 200  #: of one model beside its name: a row in the report, one in `/tree`, and a name in a list
NAMED = 3  #: how often they contain its name
ENTRY_VALUES, ROW_VALUES = 32, 10  #: of JSON, of one child and one model in `/tree`, at most
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
        memory_bytes=max(64 * 1024, max_body_bytes * 5 // 8),
    )


DEFAULT = limits()


def weigh(value: Any) -> tuple[int, int]:
    """Bytes and values of JSON."""
    encoded = msgspec.json.encode(value)
    return len(encoded), values_in(encoded)


def values_in(body: bytes | bytearray) -> int:
    """At most how many values a JSON text has; commas and brackets in text count, too."""
    return body.count(b",") + body.count(b"[") + body.count(b"{") + 1


def text_bytes(texts: Iterable[str]) -> int:
    """At most how many bytes the texts have together, with their quotation marks."""
    return sum(3 + (len(text) if text.isascii() else 4 * len(text)) for text in texts)
