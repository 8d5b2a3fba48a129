"""httpx transports whose host names a `Resolver` looks up, and whose addresses are raced.

httpx would resolve in the event loop's few threads, which a name that nobody answers holds for 10 to 20 s each.

Source: httpcore's documentation, "Network Backends".
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

from hierarchy.errors import causes
from hierarchy.runtime.resolver import Resolver, race


class ResolvingBackend(httpcore.AsyncNetworkBackend):
    """Opens httpcore's connections."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of `host` that answers. Raises `httpcore.ConnectError`."""

        async def dial(address: str) -> httpcore.AsyncNetworkStream:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                raise httpcore.ConnectError(_reason(error)) from error

        try:
            addresses = await self._resolver.addresses(host)
        except OSError as error:
            raise httpcore.ConnectError(error) from error
        try:
            return await race(addresses, dial, lambda stream: None, errors=(httpcore.ConnectError, OSError))
        except httpcore.ConnectError:
            self._resolver.doubt(host)
            raise

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a socket of this machine."""
        return await self._inner.connect_unix_socket(path, timeout, socket_options)

    async def sleep(self, seconds: float) -> None:
        """Between two attempts."""
        await self._inner.sleep(seconds)


def _reason(error: BaseException) -> str:
    """What the system says; anyio says that all attempts have failed, of which there was one."""
    errors = (one for one in causes(error) if isinstance(one, OSError))
    return next((one.strerror for one in errors if one.strerror and (one.errno or 0) > 0), str(error))


def http_transport(
    resolver: Resolver,
    verify: ssl.SSLContext | bool,
    *,
    limits: httpx.Limits | None = None,
    proxy: str | None = None,
) -> httpx.AsyncHTTPTransport:
    """A transport for an httpx client; nothing comes from the environment.

    verify: how certificates are checked. proxy: a proxy's URL.
    """
    transport = httpx.AsyncHTTPTransport(
        verify=verify, trust_env=False, limits=limits or httpx.Limits(), proxy=httpx.Proxy(proxy) if proxy else None
    )
    # httpx has no argument for it; httpcore's pool uses it for each new connection.
    transport._pool._network_backend = ResolvingBackend(resolver)
    return transport


def plain_client(resolver: Resolver, verify: ssl.SSLContext | bool, *, proxy: str | None = None) -> httpx.AsyncClient:
    """A client that keeps nothing of what a server says, and goes where its caller says. Arguments: `http_transport`.

    trust_env: a proxy from the environment is for the internet, not for the machines of the tree. timeout: its callers
    have their own, in which a pause of this process does not count. cookies: a server could send new ones for ever.
    """
    return httpx.AsyncClient(
        transport=http_transport(resolver, verify, proxy=proxy),
        trust_env=False,
        follow_redirects=False,
        timeout=None,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    )
