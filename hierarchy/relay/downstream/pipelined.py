"""Requests that came before the response to an earlier one was written: they wait for their turn, newest first.

Until there are too many, reading continues, since nothing else shows that the client has left.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hierarchy.relay.downstream.parts import AppRequest
from hierarchy.relay.exchange import Exchange

MAX_WAITING: Final = 8
MAX_WAITING_BYTES: Final = 64 * 1024  # of the newest one's body


def are_too_many(waiting: deque[Exchange | AppRequest], incoming: Exchange | AppRequest | None) -> bool:
    """Do they reach the limit, in number or in size? incoming: the request whose body is coming."""
    newest = waiting[0] if waiting else None
    large = isinstance(newest, Exchange) and newest.request.size > MAX_WAITING_BYTES
    return len(waiting) >= MAX_WAITING or (large and newest is incoming)


def client_gone(waiting: deque[Exchange | AppRequest]) -> None:
    """The client of all of them is gone."""
    for request in waiting:
        if isinstance(request, Exchange):
            request.client_gone()
    waiting.clear()


def forget_all(waiting: deque[Exchange | AppRequest]) -> None:
    """None of them gets a response."""
    while waiting:
        forget(waiting.pop())


def forget(request: Exchange | AppRequest) -> None:
    """A request that gets no response of its own."""
    if isinstance(request, Exchange):
        request.request.forget_body()
