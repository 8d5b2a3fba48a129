"""The HTTP client for one engine's probes. It also knows what the kernel knows of its connection.

A process that hangs and a machine that is gone look alike to HTTP: no response. The kernel can tell them apart, since
the kernel of a living machine acknowledges what it receives. The client has at most one connection, so that a probe's
state is its connection's state.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Literal

import httpx

from hierarchy.config.address import is_loopback, literal_ip
from hierarchy.errors import causes
from hierarchy.runtime.http_client import http_transport
from hierarchy.runtime.resolver import Resolver
from hierarchy.runtime.tcp_keepalive import Transport, tcp_state

#: what the error of a probe proves:
#: refused: no process listens; unreachable: the kernel got no answer, or there is no route or address; own: this node
#: has no descriptor or port left, which proves nothing; bad: the engine, or what is in front of it, answers wrongly or
#: breaks the connection
Proof = Literal["refused", "unreachable", "own", "bad"]
_UNREACHABLE = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}
_OWN = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}


class ProbeClient:
    """Requests to one engine.

    Attributes:
        http: for the adapter. It has no time limits, which are the prober's.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        resolver: Resolver,
        *,
        verify: ssl.SSLContext | bool = True,
        headers: Mapping[str, str] | None = None,
        keep: bool = True,
    ) -> None:
        """
        Args:
            clock: monotonic seconds.
            resolver: looks up the engine's host name.
            verify: how the engine's certificate is checked.
            headers: sent with each request: the engine's key.
            keep: use a connection again; else each request has a new one.
        """
        self._clock = clock
        self._connecting_since: float | None = None
        self._is_resolved = True  # no name has to be looked up to connect, which may take long by itself
        self._stream: Transport | None = None  # the connection that was made last
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=int(keep))
        self.http = httpx.AsyncClient(
            transport=http_transport(resolver, verify, limits=limits),
            headers=headers,
            trust_env=False,
            timeout=None,
            event_hooks={"request": [self._follow]},
        )

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

    async def aclose(self) -> None:
        """Close the connection."""
        await self.http.aclose()

    async def _follow(self, request: httpx.Request) -> None:
        self._is_resolved = is_loopback(request.url.host) or literal_ip(request.url.host) is not None
        request.extensions["trace"] = self._trace

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Source: httpcore's documentation, "Request Extensions", `trace`."""
        if event == "connection.connect_tcp.started":
            self._connecting_since, self._stream = self._clock(), None
        elif event.startswith("connection.connect_tcp."):
            self._connecting_since, self._stream = None, info.get("return_value")


def proof_of(error: BaseException) -> Proof:
    """What the error of a probe proves."""
    numbers = {one.errno for one in causes(error) if isinstance(one, OSError)}
    if numbers & _OWN:
        return "own"
    if errno.ECONNREFUSED in numbers:
        return "refused"
    no_name = any(number is not None and number < 0 for number in numbers)  # an error of getaddrinfo
    return "unreachable" if no_name or numbers & _UNREACHABLE else "bad"
