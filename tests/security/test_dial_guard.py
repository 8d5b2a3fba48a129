"""Which addresses of registered children are dialled, and that the checked address is the one dialled."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.runtime.resolver import Resolver
from hierarchy.security.dial_guard import (
    DialGuard,
    ForbiddenAddress,
    GuardedTransport,
    connect,
    effective_ip,
    parse_networks,
)
from tests.support import free_port, running_app

OPEN = DialGuard()
NEVER = [
    "0.0.0.0", "0.1.2.3", "255.255.255.255", "169.254.169.254", "169.254.0.1", "224.0.0.1", "239.1.1.1", "::",
    "fe80::1", "fe80::1%eth0", "febf::1", "ff02::1", "fd00:ec2::254", "fd00:ec2::23", "100.100.100.200",
    "168.63.129.16", "192.0.0.192", "fd20:ce::254",
]  # fmt: skip


def embeddings(address: str) -> list[str]:
    """IPv6 addresses that contain an IPv4 address."""
    number = int(ipaddress.IPv4Address(address))
    six = [
        0xFFFF << 32 | number,
        number,
        int(ipaddress.IPv6Address("64:ff9b::")) | number,
        0x2002 << 112 | number << 80,
    ]
    return [str(ipaddress.IPv6Address(value)) for value in six if value > 0xFFFF]


@pytest.mark.parametrize("address", NEVER)
@pytest.mark.parametrize("guard", [OPEN, DialGuard(parse_networks(["0.0.0.0/0", "::/0"]))], ids=["open", "allows all"])
def test_some_addresses_are_never_dialled_even_if_allowed(address: str, guard: DialGuard) -> None:
    for local in (True, False):
        assert "never" in guard.refusal(address, local=local)
        if ":" not in address:
            for embedded in embeddings(address):
                assert "never" in guard.refusal(embedded, local=local), embedded


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_address_is_checked_as_ipv4(ip: ipaddress.IPv4Address) -> None:
    guard = DialGuard(parse_networks(["10.0.0.0/8"]))
    for embedded in embeddings(str(ip)):
        assert effective_ip(ipaddress.ip_address(embedded)) == ip
        assert guard.refusal(embedded, local=False) == guard.refusal(str(ip), local=False)
        assert guard.allow_contains(embedded) == guard.allow_contains(str(ip))


@given(st.ip_addresses())
def test_allow_admits_its_networks_and_nothing_else(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    guard = DialGuard(parse_networks([str(effective_ip(ip))]))
    other = DialGuard(parse_networks(["192.0.2.7/32"]))
    if OPEN.refusal(str(ip), local=True) == "":
        assert guard.refusal(str(ip), local=False) == ""
        assert other.refusal(str(ip), local=True) or effective_ip(ip) == ipaddress.ip_address("192.0.2.7")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", *embeddings("127.0.0.1")])
def test_loopback_is_only_for_children_on_this_machine(address: str) -> None:
    assert OPEN.refusal(address, local=True) == ""
    assert "loopback" in OPEN.refusal(address, local=False)
    assert DialGuard(parse_networks(["127.0.0.0/8", "::1/128"])).refusal(address, local=False) == ""


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "0"])
def test_other_spellings_of_loopback_are_refused(host: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        asyncio.run(OPEN.addresses(host, 80, local=False))


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376"])
def test_other_spellings_of_a_metadata_address_are_refused(host: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        asyncio.run(OPEN.addresses(host, 80, local=True))


class Names:
    """A resolver with another result each time, like a hostile name server."""

    def __init__(self, *results: Sequence[str]) -> None:
        self.results = list(results)
        self.lookups = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.lookups += 1
        return self.results.pop(0)


def test_a_name_is_resolved_once_and_the_checked_address_is_dialled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        names = Names(["127.0.0.1"], ["169.254.169.254"])

        async def dial() -> None:
            await connect(asyncio.Protocol, "good.example", port, None, DialGuard((), names), Resolver(), local=True)

        asyncio.run(dial())
        assert names.lookups == 1
        with pytest.raises(ForbiddenAddress, match=r"good.example \(169.254.169.254\) is never dialled"):
            asyncio.run(dial())


def test_a_name_with_one_forbidden_address_is_refused() -> None:
    names = Names(["127.0.0.1", "169.254.169.254"])
    with pytest.raises(ForbiddenAddress):
        asyncio.run(DialGuard((), names).addresses("mixed.example", 80, local=True))


def test_the_next_address_is_tried_if_one_refuses_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        guard = DialGuard((), Names(["127.0.0.2", "127.0.0.1"]))
        asyncio.run(
            connect(asyncio.Protocol, "two.example", server.getsockname()[1], None, guard, Resolver(), local=True)
        )
    guard = DialGuard((), Names(["127.0.0.2", "127.0.0.1"]))
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(connect(asyncio.Protocol, "two.example", free_port(), None, guard, Resolver(), local=True))


def test_a_probe_goes_to_the_checked_address_with_the_name_as_host() -> None:
    hosts = []

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        hosts.append(dict(scope["headers"])[b"host"])
        await send(
            {"type": "http.response.start", "status": 307, "headers": [(b"location", b"http://169.254.169.254/")]}
        )
        await send({"type": "http.response.body", "body": b""})

    async def probe(guard: DialGuard, port: int) -> httpx.Response:
        inner = httpx.AsyncHTTPTransport()
        async with httpx.AsyncClient(transport=GuardedTransport(inner, guard, local=True)) as http:
            response = await http.post(f"http://worker.example:{port}/worker_get_status")
        await inner.aclose()
        return response

    with running_app(app, lifespan="off") as url:
        port = int(url.rpartition(":")[2])
        response = asyncio.run(probe(DialGuard((), Names(["127.0.0.1"])), port))
        assert response.status_code == 307  # returned, not followed
        assert hosts == [f"worker.example:{port}".encode()]
        with pytest.raises(httpx.ConnectError, match="never dialled"):
            asyncio.run(probe(DialGuard((), Names(["169.254.169.254"])), port))
    assert len(hosts) == 1
