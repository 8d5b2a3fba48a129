"""Attempts are lent, not copied: how many a node spends on a request, lends to a child, and gets back. Pure.

A request has `MAX_ATTEMPTS` in all. A node that sends it to an engine spends one. A node that sends it to another node
lends some, in x-hierarchy-attempts. A failure returns those that were not spent, in x-hierarchy-unspent, which also
means that another child may be tried. A child that breaks without a response keeps what it was lent. So however deep
the tree is, no request is tried at more than `MAX_ATTEMPTS` engines. Only a child known to be dead costs nothing.
"""

from __future__ import annotations

from typing import Final

MAX_ATTEMPTS: Final = 3
DEFAULT_LENT: Final = 2  # lent by a parent of an older release, which does not send a number
#: statuses of a node's own errors after which another node may be tried: no child of that one could serve the request
RETRIABLE: Final = frozenset({404, 502, 503})


def lend(left: int, *, entry: bool, rivals: bool) -> int:
    """How many of `left` attempts go down with a request to a node; at least 1.

    entry: it is the entry node, which keeps one in reserve for a whole subtree that dies. rivals: there is another
    child that could be tried, so that one attempt is kept here.
    """
    return left - 1 if left > 1 and (entry or rivals) else left


def returned(lent: int, unspent: int | None) -> int:
    """How many come back with a failure. unspent: as the child reports it; None if it does not."""
    return min(max(unspent or 0, 0), lent)


def unspent_field(left: int) -> tuple[bytes, bytes]:
    """The field that gives attempts back."""
    return b"x-hierarchy-unspent", b"%d" % left
