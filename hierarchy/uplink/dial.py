"""Connections to a parent, through an HTTP proxy if there is one.

Source: RFC 9110, section 9.3.6 (CONNECT); the variables `https_proxy`, `http_proxy` and `no_proxy` as curl reads them.
"""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # unknown to typeshed

from hierarchy.errors import UsageError
from hierarchy.runtime.resolver import Resolver, race

MAX_RESPONSE = 16 * 1024  # bytes of a proxy's response to CONNECT
DEFAULT_PROXY_PORT = 3128
P = TypeVar("P", bound=asyncio.Protocol)


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy, to which the connection itself is without TLS."""

    url: str  #: as configured
    host: str
    port: int
    auth: str = ""  #: `user:password`, or empty

    @property
    def name(self) -> str:
        """For messages; without the password."""
        return f"the proxy {self.host}:{self.port}"


def parse_proxy(text: str) -> Proxy:
    """`http://[user:password@]host:port`; the scheme may be left out, as curl allows.

    Raises:
        UsageError: not such a URL, or another scheme.
    """
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or parts.scheme != "http":
        shown = re.sub(r"//[^/@]*@", "//", text)  # without a password
        raise UsageError(f"proxy {shown!r}: write http://host:port; TLS to the proxy itself is not supported")
    user = unquote(parts.username or "")
    auth = f"{user}:{unquote(parts.password or '')}" if user else ""
    return Proxy(url, host, port or DEFAULT_PROXY_PORT, auth)


def proxy_for(url: str, setting: str, environ: Mapping[str, str], link: str = "reverse") -> Proxy | None:
    """The proxy on the path to `url`. setting: `env`, `none`, or a proxy's URL.

    link: with `direct` the environment is not read, since the parent dials this node without any proxy.

    Raises:
        UsageError: as `parse_proxy`, for the setting or the environment.
    """
    if setting == "none" or (setting == "env" and link == "direct"):
        return None
    if setting != "env":
        return parse_proxy(setting)
    parts = urlsplit(url)

    def value(variable: str) -> str:
        return environ.get(variable) or environ.get(variable.upper()) or ""

    # A web server sets HTTP_PROXY from a client's header `Proxy` (CGI), so curl does not read it in upper case.
    found = environ.get("http_proxy", "") if parts.scheme == "http" else value("https_proxy")
    found = found or value("all_proxy")
    if not found or proxy_bypass_environment(parts.netloc.rpartition("@")[2], {"no": value("no_proxy")}):
        return None
    return parse_proxy(found)


async def open_connection(
    url: str,
    factory: Callable[[], P],
    *,
    tls: ssl.SSLContext | None,
    proxy: Proxy | None,
    resolver: Resolver | None = None,
) -> asyncio.Transport:
    """Connect to the host of `url`; the caller sets a timeout.

    factory: makes the protocol. tls: for an https URL; None: the system's CAs. proxy: None to connect directly.
    resolver: looks up the name of the host or the proxy; None for one of its own.

    Raises:
        OSError: the connection failed, or the proxy refused it.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    context = (tls or ssl.create_default_context()) if is_tls else None
    loop = asyncio.get_running_loop()
    resolver = resolver or Resolver()
    if proxy is None:
        return await _connect_directly(factory, host, port, context, resolver)
    sock = await _connect_through(proxy, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", resolver)
    try:
        transport, _ = await loop.create_connection(
            factory, sock=sock, ssl=context, server_hostname=host if context else None
        )
    except BaseException:
        sock.close()
        raise
    return transport


async def _connect_directly(
    factory: Callable[[], P], host: str, port: int, context: ssl.SSLContext | None, resolver: Resolver
) -> asyncio.Transport:
    """A connection to the address of the host that answers first. Raises `OSError`."""
    loop = asyncio.get_running_loop()

    async def dial(address: str) -> asyncio.Transport:
        name = host if context else None
        return (await loop.create_connection(factory, address, port, ssl=context, server_hostname=name))[0]

    try:
        return await race(await resolver.addresses(host), dial, lambda transport: transport.abort())
    except OSError:
        resolver.doubt(host)
        raise


async def _connect_to(proxy: Proxy, resolver: Resolver) -> socket.socket:
    """A socket that is connected to the proxy. Raises `OSError`."""

    async def dial(address: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (address, proxy.port))
        except BaseException:
            sock.close()
            raise
        return sock

    try:
        return await race(await resolver.addresses(proxy.host), dial, lambda sock: sock.close())
    except OSError:
        resolver.doubt(proxy.host)
        raise


async def _connect_through(proxy: Proxy, authority: str, resolver: Resolver) -> socket.socket:
    """A socket that the proxy has connected to `authority`. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    sock = await _connect_to(proxy, resolver)
    try:
        await loop.sock_sendall(sock, _connect_request(proxy, authority))
        _check_connected(proxy, await _read_head(proxy, sock))
    except BaseException:
        sock.close()
        raise
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _connect_request(proxy: Proxy, authority: str) -> bytes:
    auth = base64.b64encode(proxy.auth.encode()).decode()
    fields = f"proxy-authorization: Basic {auth}\r\n" if proxy.auth else ""
    return f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n{fields}\r\n".encode()


async def _read_head(proxy: Proxy, sock: socket.socket) -> bytes:
    """The proxy's response. The parent sends nothing before this node does, so no bytes of it can follow."""
    loop = asyncio.get_running_loop()
    head = b""
    while b"\r\n\r\n" not in head:
        data = await loop.sock_recv(sock, 4096)
        head += data
        if not data or len(head) > MAX_RESPONSE:
            raise ConnectionResetError(f"{proxy.name} did not answer CONNECT")
    return head


def _check_connected(proxy: Proxy, head: bytes) -> None:
    if not re.match(rb"HTTP/1\.[01] 2\d\d[ \r]", head):
        line = head.split(b"\r\n", 1)[0][:100].decode("ascii", "replace")
        raise ConnectionRefusedError(f"{proxy.name} answered CONNECT with {line!r}")
