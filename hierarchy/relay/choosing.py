"""Which child a request goes to, and whether another one than it has could take it."""

from __future__ import annotations

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.errors import RequestError
from hierarchy.registry.child import NODE, Child, Lease
from hierarchy.relay.fingerprints import Fingerprints
from hierarchy.relay.request import Request


def claim(request: Request, dispatch: Dispatch, fingerprints: Fingerprints) -> Lease:
    """Claim a child. Those that the request left are asked again if no other one is left, here or above.

    Raises:
        RequestError: there is none.
    """
    key, translated = (request.model, request.api), request.head.translated
    prefix = request.prefix
    if prefix is None and request.prefix_field and dispatch.compares(key):
        prefix = request.known_prefix(fingerprints)
    try:
        return dispatch.lease(
            key, request.passed, translated=translated, elsewhere=request.others, prefix=prefix, require=request.require
        )
    except RequestError:
        if request.others or not request.insist():
            raise
        return dispatch.lease(key, request.passed, translated=translated, prefix=prefix, require=request.require)


def can_leave(request: Request, child: Child, dispatch: Dispatch) -> bool:
    """Could others than this child take the request, here or above?"""
    if request.others or len(request.passed) > len(request.tried):
        return True
    if request.parent is not None and not request.reports_outcome and child.kind != NODE:
        return True  # a parent of an older release does not tell, and has always got it back
    return has_place(request, child, dispatch)


def has_place(request: Request, child: Child, dispatch: Dispatch) -> bool:
    """Could another child of this node take the request?"""
    key, passed, translated = (request.model, request.api), (*request.passed, child), request.head.translated
    try:
        dispatch.choose(key, passed, translated=translated, elsewhere=request.others, require=request.require)
    except RequestError:
        return False
    return True
