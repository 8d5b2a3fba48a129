"""Requests that the node answers itself, at once, without a task: reports come by the thousand a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hierarchy.errors import BodyTooLarge, RequestError
from hierarchy.http import render
from hierarchy.http.request_head import RequestHead
from hierarchy.relay.exchange import Exchange
from hierarchy.security.registration_policy import UNAUTHENTICATED_BODY_BYTES

if TYPE_CHECKING:
    from hierarchy.relay.downstream.connection import FastPath
    from hierarchy.relay.lane import Lane

#: from a request's body, its x-hierarchy-auth and the IP address it came from, to the JSON of its answer; raises
#: RequestError; must not block
Handler = Callable[[bytes, bytes, str], bytes]


class Local(Exchange):
    """Comes in like any exchange, and is answered by a function instead of a child."""

    def __init__(self, protocol: FastPath, lane: Lane, head: RequestHead, now: float, handler: Handler) -> None:
        super().__init__(protocol, lane, head, now)
        self._handler = handler

    def body_part(self, data: bytes) -> None:
        super().body_part(data)
        if self.size > UNAUTHENTICATED_BODY_BYTES >= self.size - len(data) and self._lane.is_stranger(
            self.head.auth, self._peer
        ):
            raise BodyTooLarge(
                f"the body is larger than {UNAUTHENTICATED_BODY_BYTES} bytes, and shows no secret of a child"
            )

    @property
    def _peer(self) -> str:
        client = self._protocol.client
        return client[0] if client else ""

    def go(self, now: float) -> None:
        try:
            body = self._handler(self._body(), self.head.auth, self._peer)
        except RequestError as error:
            self.fail(error)
            return
        self._protocol.transport.write(
            render.json_response(body, self._protocol.server_state.default_headers, close=not self.keep_alive)
        )
        self._settle(now)
