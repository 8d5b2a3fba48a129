"""Addresses and URLs as people write them in configurations and flags.

Each parser raises `ValueError(what is wrong, how to mend it)`, which pydantic and the command line both pass on.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

DEFAULT_PORT = 21001  # FastChat's controller port

Address = tuple[str, int]  #: (host, port); an IPv6 host without its brackets
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(text: str) -> Address:
    """`host:port`, `[ipv6]:port`, or a host alone, which gets port 21001. Port 0 lets the system choose.

    Raises:
        ValueError: with two arguments, what is wrong and how to mend it.
    """
    match = re.fullmatch(r"(?:\[([^]]*)\]|([^:\[\]]*))(?::([0-9]{1,9}))?", text)
    if match is None:
        if literal_ip(text):
            raise ValueError(f"{text!r} is an IPv6 address without brackets", f'write "[{text}]:{DEFAULT_PORT}"')
        raise ValueError(f"{text!r} is no address", 'write "host:port", such as "10.0.0.1:21001"')
    host, port = match[1] or match[2] or "", match[3] or ""
    if not host or (not port and host.isdigit()):
        port = host or port or str(DEFAULT_PORT)
        raise ValueError(f"{text!r} names no host", f'write "localhost:{port}", or "0.0.0.0:{port}" for all interfaces')
    _check_host(host, bracketed=match[1] is not None)
    if port and int(port) > 65535:
        raise ValueError(f"port {port} is too large", "write a port from 0 to 65535")
    return host, int(port or DEFAULT_PORT)


def parse_url(text: str) -> tuple[str, Address]:
    """The URL of a node or engine, as (that URL without a closing slash, the address behind it).

    Raises:
        ValueError: with two arguments, what is wrong and how to mend it.
    """
    mend = 'write "http://host:port"'
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no URL ({error})", mend) from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{text!r} is not an http(s) URL", mend)
    if not host or port == 0:
        raise ValueError(f"{text!r} names no {'port' if host else 'host'}", mend)
    _check_host(host, bracketed="[" in parts.netloc)
    if text.rstrip("/") != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
        raise ValueError(f"{text!r} is more than scheme, host and port", f"{mend}; paths are relayed as they come")
    return f"{parts.scheme}://{parts.netloc}", (host, port or {"http": 80, "https": 443}[parts.scheme])


def join_address(address: Address) -> str:
    """`host:port`, with brackets round an IPv6 host."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url_of(address: Address, scheme: str = "http") -> str:
    """`http://host:port`."""
    return f"{scheme}://{join_address(address)}"


def host_of(url: str) -> str:
    """The host of a URL that `parse_url` or `url_of` gave; port 0, of a node that has not started yet, is fine."""
    return urlsplit(url).hostname or ""


def literal_ip(host: str) -> IPAddress | None:
    """The IP address that `host` spells, or None for a host name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_wildcard(host: str) -> bool:
    """Whether `host` means all interfaces, at which nobody can dial."""
    ip = literal_ip(host)
    return ip is not None and ip.is_unspecified


def is_loopback(host: str) -> bool:
    """Whether `host` is reached only from its own machine."""
    ip = literal_ip(host)
    return host.lower() == "localhost" if ip is None else ip.is_loopback


def _check_host(host: str, *, bracketed: bool) -> None:
    numeric = bracketed or not host.strip("0123456789.")
    if not (literal_ip(host) if numeric else re.fullmatch(r"[A-Za-z0-9._-]+", host)):
        kind = "IP address" if numeric else "host name"
        raise ValueError(f"{host!r} is no {kind}", "write an IP address or a host name")
