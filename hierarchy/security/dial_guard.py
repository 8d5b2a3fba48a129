"""Where a node may dial. The address that was checked is the one that is dialled, so a name cannot change in between.

What stands in a configuration is dialled as it stands. A child that registered chose its URL itself, and could point it
at whatever this machine can reach: the services of a cloud's host, say (CVE-2024-10044 is this hole).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import httpx

from hierarchy.config.address import IPAddress, literal_ip

P = TypeVar("P", bound=asyncio.BaseProtocol)
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]  #: the IP addresses of a host, for a TCP port
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
#: beside what is link-local, multicast or unspecified: "this network", broadcast, and the services of a cloud's host
#: that are not link-local (AWS over IPv6, Alibaba, Azure, Oracle, Google over IPv6)
_NEVER = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "255.255.255.255", "fd00:ec2::/64", "100.100.100.200", "168.63.129.16", "192.0.0.192",
            "fd20:ce::254",
        ),
    )
)  # fmt: skip


class ForbiddenAddress(ConnectionError):
    """The address is one that this node may not dial."""


def plain(ip: IPAddress) -> IPAddress:
    """The address that is really meant: an IPv4 address that stands inside an IPv6 one, where it does."""
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inside is None and (ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 0xFFFF)):
            inside = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        return inside or ip
    return ip


def networks(texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    return tuple(map(ipaddress.ip_network, texts))


def is_in(ip: IPAddress, among: Iterable[IPNetwork]) -> bool:
    return any(ip in network for network in among if network.version == ip.version)


class DialGuard:
    """Says which addresses of registered children may be dialled. allow: networks; () for anywhere not forbidden."""

    def __init__(self, allow: tuple[IPNetwork, ...] = (), resolve: Resolve | None = None) -> None:
        self.allow = allow
        self._resolve = resolve or _resolve

    def flaw(self, address: str, *, local: bool) -> str:
        """Why this IP address may not be dialled; "" if it may. local: the child registered from this machine."""
        ip = literal_ip(address)
        if ip is None:
            return "is no IP address"
        ip = plain(ip)
        if ip.is_link_local or ip.is_multicast or ip.is_unspecified or is_in(ip, _NEVER):
            return "is never dialled: it is link-local, multicast, unspecified or a cloud's metadata service"
        if self.allow:
            return "" if is_in(ip, self.allow) else "is not in `security.allow` of this node"
        if ip.is_loopback and not local:
            return "is loopback, and the child is on another machine"
        return ""

    def permits(self, address: str) -> bool:
        """Does `allow` name this address? Nothing is permitted by an empty one."""
        ip = literal_ip(address.partition("%")[0])
        return ip is not None and is_in(plain(ip), self.allow)

    async def addresses(self, host: str, port: int, *, local: bool) -> list[str]:
        """The IP addresses of `host`, all of them checked.

        Raises:
            ForbiddenAddress: one of them may not be dialled.
            OSError: the name cannot be resolved.
        """
        found = [host] if literal_ip(host) else await self._resolve(host, port)
        for address in found:
            if flaw := self.flaw(address, local=local):
                raise ForbiddenAddress(f"{host} ({address}) {flaw}" if address != host else f"{host} {flaw}")
        if not found:
            raise OSError(f"{host} has no address")
        return list(found)


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


async def connect(
    make: Callable[[], P], host: str, port: int, tls: ssl.SSLContext | None, guard: DialGuard | None, *, local: bool
) -> P:
    """A TCP connection, over TLS with the certificate of `host` if `tls`. guard: None for a host of the configuration.

    Raises:
        OSError: it cannot be made; `ForbiddenAddress` if it must not.
    """
    loop = asyncio.get_running_loop()
    if guard is None:
        return (await loop.create_connection(make, host, port, ssl=tls))[1]
    problem: OSError | None = None
    for address in await guard.addresses(host, port, local=local):
        try:
            return (await loop.create_connection(make, address, port, ssl=tls, server_hostname=host if tls else None))[
                1
            ]
        except OSError as error:
            problem = error
    assert problem is not None
    raise problem


class GuardedTransport(httpx.AsyncBaseTransport):
    """For requests to a registered child. inner: who sends them; stays open."""

    def __init__(self, inner: httpx.AsyncBaseTransport, guard: DialGuard, *, local: bool) -> None:
        self._inner = inner
        self._guard = guard
        self._local = local

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            address = (await self._guard.addresses(host, port, local=self._local))[0]
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(str(error), request=request) from None
        # The Host field was set from the name already; TLS asks for the name and checks the certificate against it.
        request.url = request.url.copy_with(host=address)
        request.extensions = {**request.extensions, "sni_hostname": host}
        return await self._inner.handle_async_request(request)
