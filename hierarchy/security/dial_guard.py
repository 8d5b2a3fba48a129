"""Which addresses a node may dial. It dials the address that it checked, so a name cannot change in between.

URLs of the configuration are dialled as they are. A child that registers chooses its URL itself, and could name any
address that this machine can reach, such as a cloud's metadata service (CVE-2024-10044 was such a hole).
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import httpx

from hierarchy.config.address import IPAddress, literal_ip
from hierarchy.runtime.resolver import Resolver, race

P = TypeVar("P", bound=asyncio.BaseProtocol)
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]  #: the IP addresses of a host, for a TCP port
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")
#: forbidden like link-local, multicast and unspecified addresses: "this network", broadcast, and the metadata services
#: of clouds at other addresses (AWS over IPv6, Alibaba, Azure, Oracle, Google over IPv6)
_FORBIDDEN = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "255.255.255.255", "fd00:ec2::/64", "100.100.100.200", "168.63.129.16", "192.0.0.192",
            "fd20:ce::254",
        ),
    )
)  # fmt: skip


class ForbiddenAddress(ConnectionError):
    """This node may not dial the address."""


def effective_ip(ip: IPAddress) -> IPAddress:
    """The IPv4 address that an IPv6 address contains, if it contains one; else the address itself."""
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        # `::` and `::1` to `::ffff` do not contain an IPv4 address
        if inside is None and (ip in _NAT64 or (ip in _IPV4_COMPATIBLE and int(ip) > 0xFFFF)):
            inside = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        return inside or ip
    return ip


def parse_networks(texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Networks in CIDR notation. Raises ValueError."""
    return tuple(map(ipaddress.ip_network, texts))


def is_in_any(ip: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    """Whether one of the networks contains the address."""
    return any(ip in network for network in networks if network.version == ip.version)


class DialGuard:
    """Decides which addresses of registered children may be dialled."""

    def __init__(self, allow: tuple[IPNetwork, ...] = (), resolve: Resolve | None = None) -> None:
        """
        Args:
            allow: the only networks that may be dialled; () for all except the forbidden ones.
            resolve: looks up host names; None for a `Resolver` of its own.
        """
        self.allow = allow
        self._resolve = resolve or registered_names(Resolver())

    def refusal(self, address: str, *, local: bool) -> str:
        """Why this IP address may not be dialled; "" if it may. local: the child registered from this machine."""
        ip = literal_ip(address)
        if ip is None:
            return "is not an IP address"
        ip = effective_ip(ip)
        if ip.is_link_local or ip.is_multicast or ip.is_unspecified or is_in_any(ip, _FORBIDDEN):
            return "is never dialled: it is link-local, multicast, unspecified or a cloud's metadata service"
        if self.allow:
            return "" if is_in_any(ip, self.allow) else "is not in `security.allow` of this node"
        if ip.is_loopback and not local:
            return "is loopback, but the child is on another machine"
        return ""

    def allow_contains(self, address: str) -> bool:
        """Whether `allow` contains this address; an empty `allow` contains none."""
        ip = literal_ip(address.partition("%")[0])
        return ip is not None and is_in_any(effective_ip(ip), self.allow)

    async def addresses(self, host: str, port: int, *, local: bool) -> list[str]:
        """The IP addresses of `host`, at least one, all of them checked.

        Raises:
            ForbiddenAddress: one of them may not be dialled.
            OSError: the name cannot be resolved.
        """
        found = [host] if literal_ip(host) else await self._resolve(host, port)
        for address in found:
            if refusal := self.refusal(address, local=local):
                raise ForbiddenAddress(f"{host} ({address}) {refusal}" if address != host else f"{host} {refusal}")
        if not found:
            raise OSError(f"{host} has no address")
        return list(found)


def registered_names(resolver: Resolver) -> Resolve:
    """Look-ups of names that children registered: any machine that may register may choose them."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return await resolver.addresses(host, configured=False)

    return resolve


async def connect(
    make: Callable[[], P],
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    guard: DialGuard | None,
    resolver: Resolver,
    *,
    local: bool,
) -> P:
    """Open a TCP connection to the address of `host` that answers first.

    Args:
        make: creates the protocol of a connection.
        tls: the certificate must be for `host`; None for cleartext.
        guard: None for a host of the configuration.
        resolver: looks up such a host.
        local: the child registered from this machine.

    Raises:
        OSError: no connection can be made; `ForbiddenAddress` if it is not allowed.
    """
    loop = asyncio.get_running_loop()

    async def dial(address: str) -> tuple[asyncio.Transport, P]:
        server_hostname = host if tls else None
        return await loop.create_connection(make, address, port, ssl=tls, server_hostname=server_hostname)

    addresses = await (resolver.addresses(host) if guard is None else guard.addresses(host, port, local=local))
    try:
        return (await race(addresses, dial, lambda connection: connection[0].abort()))[1]
    except OSError:
        resolver.doubt(host)
        raise


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends httpx requests to a registered child through `inner`, whose connections stay open."""

    def __init__(self, inner: httpx.AsyncBaseTransport, guard: DialGuard, *, local: bool) -> None:
        self._inner = inner
        self._guard = guard
        self._local = local

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to a checked address of its host. Raises `httpx.ConnectError` if it may not be dialled."""
        host = request.url.host
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            address = (await self._guard.addresses(host, port, local=self._local))[0]
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(str(error), request=request) from None
        # The Host field was set from the name already; TLS checks the certificate against the name, too.
        request.url = request.url.copy_with(host=address)
        request.extensions = {**request.extensions, "sni_hostname": host}
        return await self._inner.handle_async_request(request)
