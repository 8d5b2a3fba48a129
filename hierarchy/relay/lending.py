"""What goes down to a node beside a request: attempts, time, and whether others could take it. See `lent_attempts`."""

from __future__ import annotations

from hierarchy.balancing.lent_attempts import lend
from hierarchy.http.request_head import DEADLINE
from hierarchy.registry import is_avoided
from hierarchy.registry.child import Child, Share
from hierarchy.relay.client import FOREVER
from hierarchy.relay.lane import Lane
from hierarchy.relay.request import Request


def attempts_for(request: Request, shares: list[Share], lane: Lane) -> int:
    """How many attempts go down with the request to a node. shares: that serve the model now."""
    left = request.left
    if left <= 1:
        return 1
    if request.parent is not None:
        return lend(left, entry=False, rivals=len(shares) - len(request.passed) > 1)
    lent = lend(left, entry=True, rivals=True)
    if lent > 1 and lane.retry_budget.troubled and not request.has_retry_place:
        return lent if lane.take_retry_place(request) else 1
    return lent


def others_could(request: Request, child: Child, shares: list[Share]) -> bool:
    """Could others than the child take the request: another child of this node, or a node above?"""
    if request.others or request.insists:
        return not request.insists
    if is_avoided(shares):
        return False
    if not request.passed:
        return len(shares) > 1 or shares[0].child is not child
    return any(share.child is not child and share.child not in request.passed for share in shares)


def time_left(request: Request, now: float) -> bytes:
    """The line that tells a node below how long the whole request may still take, if that is limited."""
    ends_at = request.ends_at
    if ends_at == FOREVER:
        return b""
    return b"\r\n%b: %d" % (DEADLINE, max(0, (ends_at - now) * 1000))
