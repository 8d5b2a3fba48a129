"""Requests that the node answers itself, at once, without a task: reports come by the thousand a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hierarchy.errors import RequestError
from hierarchy.relay import render
from hierarchy.relay.exchange import Exchange
from hierarchy.relay.seen import RequestHead

if TYPE_CHECKING:
    from hierarchy.relay.lane import Lane
    from hierarchy.relay.turns import Turns

#: from a request's body, its x-hierarchy-auth and the IP address it came from, to the JSON of its answer; raises
#: RequestError; must not block
Handler = Callable[[bytes, bytes, str], bytes]


class Local(Exchange):
    """Comes in like any exchange, and is answered by a function instead of a child."""

    def __init__(self, protocol: Turns, lane: Lane, head: RequestHead, now: float, handler: Handler) -> None:
        super().__init__(protocol, lane, head, now)
        self._handler = handler

    def go(self, now: float) -> None:
        try:
            client = self._protocol.client
            body = self._handler(self._body(), self.head.auth, client[0] if client else "")
        except RequestError as error:
            self.fail(error)
            return
        self._protocol.transport.write(
            render.json_answer(body, self._protocol.server_state.default_headers, close=not self.keep_alive)
        )
        self._settle(now)
