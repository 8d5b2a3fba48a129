"""Addresses and URLs as they are written in configurations and flags.

Each parser raises `ValueError(what is wrong, hint)`, which pydantic and the command line both pass on.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from urllib.parse import unquote, urlsplit

DEFAULT_PORT = 21001  # FastChat's controller port

Address = tuple[str, int]  #: (host, port); an IPv6 host without its brackets
Place = tuple[str, int, str]  #: host, port and path that a URL leads to, the same for all its spellings
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
LOOPBACK = ("127.0.0.1", "::1")  # of `localhost`


def parse_address(text: str) -> Address:
    """Parse `host:port`, `[ipv6]:port`, or a host alone, which gets port 21001. Port 0 lets the system choose.

    Raises:
        ValueError: with two arguments, what is wrong and a hint.
    """
    match = re.fullmatch(r"(?:\[([^]]*)\]|([^:\[\]]*))(?::([0-9]{1,9}))?", text)
    if match is None:
        if literal_ip(text):
            raise ValueError(f"{text!r} is an IPv6 address without brackets", f'write "[{text}]:{DEFAULT_PORT}"')
        raise ValueError(f"{text!r} is not an address", 'write "host:port", such as "10.0.0.1:21001"')
    host, port = match[1] or match[2] or "", match[3] or ""
    if not host or (not port and host.isdigit()):
        port = host or port or str(DEFAULT_PORT)
        raise ValueError(f"{text!r} has no host", f'write "localhost:{port}", or "0.0.0.0:{port}" for all interfaces')
    _check_host(host, bracketed=match[1] is not None)
    if port and int(port) > 65535:
        raise ValueError(f"port {port} is too large", "write a port from 0 to 65535")
    return host, int(port or DEFAULT_PORT)


def parse_url(text: str) -> tuple[str, Address]:
    """Parse the URL of a node or engine into (the URL without a closing slash, its address).

    Raises:
        ValueError: with two arguments, what is wrong and a hint.
    """
    hint = 'write "http://host:port"'
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not a URL ({error})", hint) from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{text!r} is not an http(s) URL", hint)
    if not host or port == 0:
        raise ValueError(f"{text!r} has no {'port' if host else 'host'}", hint)
    _check_host(host, bracketed="[" in parts.netloc)
    if text.rstrip("/") != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
        raise ValueError(
            f"{text!r} is more than scheme, host and port", f"{hint} alone, since every request keeps its own path"
        )
    return f"{parts.scheme}://{parts.netloc}", (host, port or {"http": 80, "https": 443}[parts.scheme])


def join_address(address: Address) -> str:
    """`host:port`, with brackets around an IPv6 host."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url_of(address: Address, scheme: str = "http") -> str:
    """`SCHEME://host:port`."""
    return f"{scheme}://{join_address(address)}"


def host_of(url: str) -> str:
    """The host of a URL that `parse_url` or `url_of` returned. Unlike `parse_url`, it accepts port 0."""
    return urlsplit(url).hostname or ""


def place_of(url: str) -> Place:
    """Where a well-formed URL leads. The scheme does not count: one port has one server."""
    parts = urlsplit(url)
    path = posixpath.normpath("/" + unquote(parts.path).lstrip("/")).rstrip("/")
    return canonical_host(parts.hostname or ""), parts.port or (443 if parts.scheme == "https" else 80), path


def canonical_host(host: str) -> str:
    """One spelling of a host: of an IP address the usual one, of a name in lower case without a closing dot."""
    host = host.lower().rstrip(".")
    ip = literal_ip(host) or _loose_ipv4(host)
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    return host if ip is None else str(ip)


def addresses_of(host: str) -> frozenset[str]:
    """The IP addresses of a canonical host that are known without a look-up; none of most names."""
    if host == "localhost":
        return frozenset(LOOPBACK)
    return frozenset((host,)) if literal_ip(host) else frozenset()


def _loose_ipv4(host: str) -> ipaddress.IPv4Address | None:
    """An IPv4 address as `inet_aton` and so `getaddrinfo` read it: 1 to 4 parts, decimal, octal or hexadecimal."""
    parts = host.split(".")
    if len(parts) > 4 or not all(re.fullmatch(r"0x[0-9a-f]{0,16}|[0-9]{1,16}", part) for part in parts):
        return None
    try:
        *first, last = [_loose_number(part) for part in parts]
        if any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
            return None
    except ValueError:  # 8 or 9 in an octal number
        return None
    return ipaddress.IPv4Address(sum(number << 8 * (3 - i) for i, number in enumerate(first)) + last)


def _loose_number(part: str) -> int:
    if part.startswith("0x"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if part.startswith("0") else 10)


def literal_ip(host: str) -> IPAddress | None:
    """The IP address that a host is, or None for a host name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def network_hint(text: str) -> str:
    """The hint for a text that is not a network: the network that holds this address, else an example."""
    try:
        return f'write "{ipaddress.ip_network(text, strict=False)}"'
    except ValueError:
        return 'write it as "10.0.0.0/24"'


def is_wildcard(host: str) -> bool:
    """Whether `host` means all interfaces; it is an address to listen on, but not to dial."""
    ip = literal_ip(host)
    return ip is not None and ip.is_unspecified


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached only from its own machine."""
    ip = literal_ip(host)
    return host.lower() == "localhost" if ip is None else ip.is_loopback


def overlaps(addresses: Sequence[Address]) -> Iterator[tuple[int, int]]:
    """The pairs of indexes at which one process cannot listen on both addresses.

    Port 0 is no conflict, since the system chooses another port for each. A host name other than localhost is compared
    by its text only.
    """
    for (i, first), (j, second) in combinations(enumerate(addresses), 2):
        if first[1] == second[1] != 0 and _hosts_overlap(first[0].lower(), second[0].lower()):
            yield i, j


def _hosts_overlap(first: str, second: str) -> bool:
    """Whether both include one IP address. `0.0.0.0` includes all of IPv4, `::` all of IPv6, and no more."""
    if first == second:
        return True
    for a in _ips_of(first):
        for b in _ips_of(second):
            if a == b or (a.version == b.version and (a.is_unspecified or b.is_unspecified)):
                return True
    return False


def _ips_of(host: str) -> list[IPAddress]:
    ips = LOOPBACK if host == "localhost" else (host,)
    return [ip for ip in map(literal_ip, ips) if ip is not None]


def _check_host(host: str, *, bracketed: bool) -> None:
    numeric = bracketed or not host.strip("0123456789.")
    if not (literal_ip(host) if numeric else re.fullmatch(r"[A-Za-z0-9._-]+", host)):
        kind = "IP address" if numeric else "host name"
        raise ValueError(f"{host!r} is not a valid {kind}", "write an IP address or a host name")
