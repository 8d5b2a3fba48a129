"""One connection to an engine, for probes: a request, its whole response, the next request.

A general HTTP client takes half a millisecond for what this does in 20 µs, and a node may have thousands of engines.
The bytes are parsed as those of the data path are (`hierarchy.http`). Nothing is decompressed, no redirect is followed.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import NamedTuple, cast

from hierarchy.errors import EngineUnreadable
from hierarchy.http.framing import Dechunker, FramingError, UntilClose
from hierarchy.http.request_head import HeadError, head_end
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.runtime.fetch import MAX_BYTES

MAX_HEAD = 64 * 1024  # bytes of a response's head
MAX_INTERIM = 16  # responses `100 Continue` and the like before it


class StaleConnection(ConnectionError):
    """The engine closed the connection as idle while a request was on its way: it can be sent again."""


class Response(NamedTuple):
    """A complete response."""

    status: int
    body: bytes


class ProbeConnection(asyncio.Protocol):
    """Carries one request at a time. Its errors do not contain the engine's URL.

    Attributes:
        transport: of TCP, also where TLS runs on top: what its kernel knows is of interest.
        is_open: it can carry another request.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        """
        Args:
            max_bytes: of a response's body.
        """
        self.transport = cast(asyncio.Transport, None)  # until `connection_made`
        self.is_open = False
        self._writer = self.transport  # TLS's, if there is TLS
        self._max_bytes = max_bytes
        self._served = False  # it has carried a response
        self._waiter: asyncio.Future[Response] | None = None  # of the request that has no whole response
        self._head = b""  # the beginning of the response's head
        self._incoming: UpstreamResponse | None = None  # the response whose body is coming
        self._dechunker: Dechunker | None = None
        self._pieces: list[bytes] = []
        self._size = 0  # bytes in `_pieces`
        self._interim = 0  # responses before the one that is waited for

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Continue over TLS. host: for which the certificate must be. Raises OSError."""
        loop = asyncio.get_running_loop()
        writer = await loop.start_tls(self.transport, self, context, server_hostname=host)
        if writer is None:
            raise ConnectionResetError("it closed the connection during the TLS handshake")
        self._writer = writer

    async def send(self, request: bytes) -> Response:
        """Send a request and wait for its response.

        Raises:
            StaleConnection: the connection ended without a byte of it, and has served before.
            OSError: the connection broke.
            EngineUnreadable: it is not HTTP, too large or compressed.
        """
        if not self.is_open:
            raise ConnectionResetError("it closed the new connection at once")
        waiter: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        self._writer.write(request)
        try:
            return await waiter
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection at once; nothing of it is of use any more."""
        self.is_open = False
        self._waiter = None
        if self._writer is not None:
            self._writer.abort()

    # -- asyncio -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self.transport = self._writer = cast(asyncio.Transport, transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone: the end of a response without a length, or a break."""
        self.is_open = False
        incoming = self._incoming
        if self._waiter is None:
            return
        if exc is None and incoming is not None and isinstance(incoming.framing, UntilClose):
            self._finish(incoming)
        elif self._served and incoming is None and not self._head:
            self._fail(StaleConnection("it closed the connection"))
        elif exc is None:
            self._fail(EngineUnreadable("it closed the connection before its response was complete"))
        else:
            self._fail(exc if isinstance(exc, OSError) else ConnectionResetError(str(exc)))

    def data_received(self, data: bytes) -> None:
        """Bytes of a response."""
        if self._waiter is None:
            self.close()  # nobody asked for them, so they would be taken for the next response
            return
        try:
            self._feed(data)
        except HeadError as error:
            self._fail(EngineUnreadable(str(error)))
        except FramingError as error:
            self._fail(EngineUnreadable(f"its response is malformed: {error}"))
        except EngineUnreadable as error:
            self._fail(error)

    # -- inside --------------------------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        incoming = self._incoming
        if incoming is None:
            self._head += data
            incoming = self._begin()
            if incoming is None:
                return
            data, self._head = self._head, b""
        taken = incoming.framing.feed(data)
        self._keep(data[:taken] if taken < len(data) else data)
        if incoming.framing.done:
            self._finish(incoming, reusable=taken == len(data))

    def _begin(self) -> UpstreamResponse | None:
        """The head of a response that is no interim one; `_head` has what follows it then. None: it is not complete."""
        while (end := head_end(self._head)) >= 0 and end <= MAX_HEAD:
            response = UpstreamResponse(self._head[:end])
            self._head = self._head[end:]
            if not response.head.interim:
                self._check(response)
                self._incoming = response
                self._dechunker = Dechunker() if response.head.kind == "chunked" else None
                return response
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise EngineUnreadable(f"it sent more than {MAX_INTERIM} interim responses")
        if len(self._head) > MAX_HEAD:
            raise EngineUnreadable(f"the head of its response is longer than {MAX_HEAD} bytes")
        return None

    def _check(self, response: UpstreamResponse) -> None:
        if not response.head.is_plain:
            raise EngineUnreadable("it sent a compressed response, which was not requested")
        if response.length > self._max_bytes:
            raise EngineUnreadable(f"it sent more than {self._max_bytes} bytes")

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._max_bytes:
            raise EngineUnreadable(f"it sent more than {self._max_bytes} bytes")
        if self._dechunker is not None:
            data = self._dechunker.feed(data)
        if data:
            self._pieces.append(data)

    def _finish(self, response: UpstreamResponse, *, reusable: bool = False) -> None:
        waiter, self._waiter = self._waiter, None
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._incoming, self._pieces, self._size, self._interim = None, [], 0, 0
        self._served = True
        if not (reusable and response.head.keep_alive):
            self.close()
        if waiter is not None and not waiter.done():
            waiter.set_result(Response(response.head.status, body))

    def _fail(self, error: Exception) -> None:
        waiter = self._waiter
        self.close()
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def __repr__(self) -> str:
        state = "closed" if not self.is_open else "idle" if self._waiter is None else "busy"
        return f"<ProbeConnection {state}>"
