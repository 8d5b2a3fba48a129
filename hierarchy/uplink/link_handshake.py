"""Offering a connection to a parent: one GET, and its 101."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import httptools

from hierarchy.errors import HierarchyError
from hierarchy.http.link_handshake import LINK_PROTOCOL, WANTED, link_request
from hierarchy.http.request_head import decimal
from hierarchy.wire.messages import Identity

MAX_RESPONSE = 64 * 1024  # bytes until the 101, or of a refusal


class RefusedError(HierarchyError):
    """The parent did not answer 101."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"it answered {status}: {reason}" if status else reason)
        self.status = status


class LinkHandshake(asyncio.Protocol):
    """Sends the request as soon as it is connected.

    take: called with the transport and the bytes behind the 101, in the same callback, so that no byte is lost.
    answered: how many requests wait at the parent, a `RefusedError`, or the error that broke the connection.
    """

    def __init__(
        self, parent: str, identity: Identity, secret: bytes, take: Callable[[asyncio.Transport, bytes], None]
    ) -> None:
        self.answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.done = False  # the connection is `take`'s now
        self._parent = parent
        self._identity = identity
        self._secret = secret
        self._take = take
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpResponseParser(self)
        self._wanted = 0
        self._upgrade = b""
        self._size = 0
        self._body = b""

    # -- asyncio ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast(asyncio.Transport, transport)
        authority = urlsplit(self._parent).netloc.encode()
        identity = self._identity
        self._transport.write(link_request(authority, identity.name.encode(), identity.instance.encode(), self._secret))

    def data_received(self, data: bytes) -> None:
        """Bytes of the parent's response."""
        if self.answered.done():
            return
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._fail(RefusedError(0, f"its answer is not HTTP: {error}"))
        else:
            if self._size > MAX_RESPONSE:
                self._fail(RefusedError(self._parser.get_status_code(), "with a very long body"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection broke before the 101."""
        if not self.answered.done():
            self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("it closed the connection"))

    # -- parser ----------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the response."""
        name = name.lower()
        if name == WANTED:
            self._wanted = max(0, decimal(value, 9))
        elif name == b"upgrade":
            self._upgrade = value.strip().lower()

    def on_body(self, body: bytes) -> None:
        """Part of the body of a refusal."""
        self._body += body[:1000]

    def on_message_complete(self) -> None:
        """A refusal is complete."""
        status = self._parser.get_status_code()
        if status != 101 and status >= 200 and not self.answered.done():
            reason = self._body[:200].decode("utf-8", "replace") or "without a reason"
            self._fail(RefusedError(status, reason))

    # -- inside ----------------------------------------------------------------------------------------------

    def _upgraded(self, behind: bytes) -> None:
        if self.answered.done():
            return
        if self._parser.get_status_code() != 101 or self._upgrade != LINK_PROTOCOL:
            self._fail(RefusedError(self._parser.get_status_code(), f"it switched to {self._upgrade[:40]!r}"))
            return
        self.answered.set_result(self._wanted)
        self.done = True
        self._take(self._transport, behind)

    def _fail(self, error: Exception) -> None:
        self.answered.set_exception(error)
        self.answered.exception()  # retrieved: the time may be over, so that nothing waits for it any more
        self._transport.abort()
