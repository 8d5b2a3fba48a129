"""What a large message changes, computed in steps before it is applied: all at once it would hold a node for 50 ms.

Nothing that a reader sees changes before the message is applied. If what this was computed from has changed by then,
for example by another message of the same child, that part is computed again, at once.
"""

from __future__ import annotations

from hierarchy.registry.below import Merged, merge_in_steps
from hierarchy.registry.child import Child, NewShares, Share
from hierarchy.runtime.steps import Steps
from hierarchy.wire.large import Children
from hierarchy.wire.limits import ChildLimits
from hierarchy.wire.listing import Listing
from hierarchy.wire.messages import HeartBeat, Registration
from hierarchy.wire.status import ModelKey, NodeStatus

AT_ONCE = 500  # models
NO_SHARES: dict[ModelKey, Share] = {}


class Prepared:
    """What a message changes.

    status: that of the message, checked; None if it has none. below: None if nothing below the child changes.
    """

    def __init__(self, status: NodeStatus | None, shares: NewShares | None, below: Merged | None) -> None:
        self.status = status
        self.shares = shares
        self.below = below


def prepare(
    message: Registration | HeartBeat,
    child: Child | None,
    max_speed: float,
    limits: ChildLimits,
    below: Children | None,
    listing: Listing | None,
) -> Steps[Prepared]:
    """Check the status of a message, and compute what changes.

    child: that sent it; None for a new one. below: the `children` of the message. listing: of what is below it now.

    Raises:
        InvalidField: a value of the status is not allowed.
    """
    status = yield from message.status_steps(max_speed, limits)
    shares = None
    if status is not None and message.node:  # a worker keeps models that its message does not list
        shares = yield from shares_steps(child, status)
    merged = None
    if below is not None:
        base = child.subtree if child is not None and isinstance(message, HeartBeat) else {}
        merged = yield from merge_in_steps(below, base, listing)
    return Prepared(status, shares, merged)


def shares_steps(child: Child | None, status: NodeStatus) -> Steps[NewShares]:
    """The shares that a child has after a report; those of the models that stay are the same objects."""
    base = NO_SHARES if child is None else child.shares
    owner = Child("", "", "") if child is None else child
    if (yield from _are_same(status, base)):  # nearly always
        return NewShares(base, base)
    known = {} if child is None else child.known_shares()
    shares: dict[ModelKey, Share] = {}
    for begin in range(0, len(status.models), AT_ONCE):
        for model in status.models[begin : begin + AT_ONCE]:
            share = known.get(model.key)
            if share is None:
                share = Share(owner, model.key)
                share.start(model)
            shares[model.key] = share
        yield
    is_same = len(shares) == len(base) and shares.keys() == base.keys()
    return NewShares(base, base if is_same else shares)


def _are_same(status: NodeStatus, shares: dict[ModelKey, Share]) -> Steps[bool]:
    """Does a status list these models in this order?"""
    if len(status.models) != len(shares):
        return False
    keys = list(shares)
    for begin in range(0, len(keys), AT_ONCE):
        listed = [model.key for model in status.models[begin : begin + AT_ONCE]]
        if listed != keys[begin : begin + AT_ONCE]:
            return False
        yield
    return True
