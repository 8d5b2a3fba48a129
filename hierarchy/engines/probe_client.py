"""The HTTP client for one engine's probes. It also knows what the kernel knows of its connection.

A process that hangs and a machine that is gone look alike to HTTP: no response. The kernel can tell them apart, since
the kernel of a living machine acknowledges what it receives. The client has at most one connection, so that a probe's
state is its connection's state.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

from hierarchy.config.address import is_loopback, literal_ip
from hierarchy.engines.adapters.reading import EngineResponse
from hierarchy.engines.probe_connection import ProbeConnection, Response, StaleConnection
from hierarchy.engines.probe_sockets import ProbeSockets
from hierarchy.errors import EngineUnreadable, causes
from hierarchy.runtime.resolver import Resolver
from hierarchy.runtime.tcp_keepalive import Transport, tcp_state
from hierarchy.security.dial_guard import DialGuard, connect

#: what the error of a probe proves:
#: refused: no process listens; unreachable: the kernel got no answer, or there is no route or address; own: this node
#: has no descriptor or port left, which proves nothing; bad: the engine, or what is in front of it, answers wrongly or
#: breaks the connection
Proof = Literal["refused", "unreachable", "own", "bad"]
_UNREACHABLE = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}
_OWN = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}


class ProbeClient:
    """Requests to one engine: an `EngineHttp` without time limits, which are its user's.

    Attributes:
        url: of the engine, without a slash at the end.
    """

    def __init__(
        self,
        url: str,
        clock: Callable[[], float],
        resolver: Resolver,
        *,
        tls: ssl.SSLContext | None = None,
        key: str = "",
        sockets: ProbeSockets | None = None,
        guard: DialGuard | None = None,
        local: bool = True,
        on_round_trip: Callable[[float, float], None] | None = None,
    ) -> None:
        """
        Args:
            clock: monotonic seconds.
            resolver: looks up the engine's host name.
            tls: how the certificate of an https URL is checked.
            key: sent with each request.
            sockets: limits the connections of all probes; None: this client needs no limit.
            guard: checks the address before it is dialled; None for a URL of the configuration.
            local: for `guard`: the engine registered from this machine.
            on_round_trip: called for each response with the seconds since its request was sent, and the time.
        """
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._prefix = parts.path
        self._tls = tls if parts.scheme == "https" else None
        self._clock = clock
        self._resolver = resolver
        self._sockets = sockets
        self._guard = guard
        self._local = local
        self._on_round_trip = on_round_trip
        self._fields = f"host: {parts.netloc.rpartition('@')[2]}\r\naccept: */*\r\naccept-encoding: identity\r\n"
        self._fields += "user-agent: hierarchy\r\n" + (f"authorization: Bearer {key}\r\n" if key else "")
        self._requests: dict[tuple[str, str], bytes] = {}  # (method, path) -> a whole request
        self._connection: ProbeConnection | None = None
        self._connecting_since: float | None = None
        # No name has to be looked up to connect, which may take long by itself.
        self._is_resolved = is_loopback(self._host) or literal_ip(self._host) is not None
        self._stream: Transport | None = None  # of the connection that was made last

    @property
    def is_connecting(self) -> bool:
        """Is a connection being opened?"""
        return self._connecting_since is not None

    def unreachable_s(self, sent_s: float) -> float:
        """For how long the kernel has had no answer to what the client sent in the last `sent_s` seconds."""
        if self._connecting_since is not None:
            return min(sent_s, self._clock() - self._connecting_since) if self._is_resolved else 0.0
        state = tcp_state(self._stream) if self._stream is not None else None
        return state.unreachable_s(sent_s) if state is not None else 0.0

    async def ask(self, method: str, path: str) -> EngineResponse:
        """See `EngineHttp.ask`."""
        request = self._requests.get((method, path)) or self._request(method, path)
        try:
            response = await self._send(request)
        except EngineUnreadable as error:
            raise EngineUnreadable(f"{self.url}{path}: {error}") from None
        return EngineResponse(self.url + path, response.status, response.body)

    def rest(self) -> None:
        """A probe is over: keep the connection only if it is still of use and there are not too many."""
        if self._sockets is None:
            return
        if self._connection is None or not self._connection.is_open or self._sockets.are_scarce:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        if self._sockets is not None:
            self._sockets.release(self)

    def _request(self, method: str, path: str) -> bytes:
        length = "content-length: 0\r\n" if method == "POST" else ""
        request = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._fields}{length}\r\n".encode()
        self._requests[method, path] = request
        return request

    async def _send(self, request: bytes) -> Response:
        connection = self._connection
        if connection is not None and connection.is_open:
            try:
                return await self._exchange(connection, request)
            except StaleConnection:
                pass
        connection = self._connection = await self._connect()
        return await self._exchange(connection, request)

    async def _exchange(self, connection: ProbeConnection, request: bytes) -> Response:
        sent_at = self._clock()
        response = await connection.send(request)
        if self._on_round_trip is not None:
            now = self._clock()
            self._on_round_trip(now - sent_at, now)
        return response

    async def _connect(self) -> ProbeConnection:
        if self._sockets is not None:
            self._sockets.take(self)
        try:
            return await self._dial()
        except BaseException:
            if self._sockets is not None:
                self._sockets.release(self)
            raise

    async def _dial(self) -> ProbeConnection:
        self._connecting_since, self._stream = self._clock(), None
        try:
            connection = await connect(
                ProbeConnection, self._host, self._port, None, self._guard, self._resolver, local=self._local
            )
        except (UnicodeError, OverflowError) as error:  # the resolver's answer to an impossible name or port
            raise OSError(f"{self._host}:{self._port} is not an address: {error}") from None
        finally:
            self._connecting_since = None
        self._stream = connection.transport
        if self._tls is not None:
            try:
                await connection.start_tls(self._tls, self._host)
            except BaseException:
                connection.close()
                raise
        return connection

    def __repr__(self) -> str:
        return f"<ProbeClient {self.url} {self._connection}>"


def proof_of(error: BaseException) -> Proof:
    """What the error of a probe proves."""
    numbers = {one.errno for one in causes(error) if isinstance(one, OSError)}
    if numbers & _OWN:
        return "own"
    if errno.ECONNREFUSED in numbers:
        return "refused"
    no_name = any(number is not None and number < 0 for number in numbers)  # an error of getaddrinfo
    return "unreachable" if no_name or numbers & _UNREACHABLE else "bad"


def reason_of(error: OSError) -> str:
    """What the system says of a connection that failed, in its own words; asyncio adds the address to them."""
    number = error.errno or 0
    if number > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(number)
    return error.strerror or str(error) or type(error).__name__
