"""Requests as the parent of a node sends them."""

from __future__ import annotations

from hierarchy.node import Node
from tests.relay.raw import post


def as_parent(node: Node, number: int, others: bool | None = None) -> bytes:
    """A request as the parent of a node sends it. others: None for a parent of an older release."""
    fields = [
        b"x-hierarchy-auth: %b" % node.uplinks[0].secret,
        b"x-hierarchy-model: m",
        b"x-hierarchy-hops: 1",
        b"x-hierarchy-attempts: 2",
    ]
    if others is not None:
        fields.append(b"x-hierarchy-others: %d" % others)
    return post(b'{"model":"m"}', *fields, b"x-hierarchy-seq: %d" % number)
