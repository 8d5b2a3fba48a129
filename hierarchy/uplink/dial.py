"""Opening a connection to a parent, through an HTTP proxy where one stands between.

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

MAX_ANSWER = 16 * 1024  # of a proxy to CONNECT
P = TypeVar("P", bound=asyncio.Protocol)


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy, spoken to in clear. auth: `user:password`, or empty."""

    url: str
    host: str
    port: int
    auth: str = ""


def parse_proxy(text: str) -> Proxy:
    """`http://[user:password@]host:port`; a scheme may be left out, as curl allows.

    Raises:
        UsageError: no such URL, or a scheme that is not spoken.
    """
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or parts.scheme != "http":
        shown = re.sub(r"//[^/@]*@", "//", text)  # without a password
        raise UsageError(f"proxy {shown!r}: write http://host:port; the proxy itself is spoken to in clear")
    user = unquote(parts.username or "")
    return Proxy(url, host, port or 3128, f"{user}:{unquote(parts.password or '')}" if user else "")


def proxy_for(url: str, setting: str, environ: Mapping[str, str], link: str = "reverse") -> Proxy | None:
    """The proxy on the way to `url`. setting: `env`, `none`, or a proxy's URL.

    link: with `direct` the environment says nothing, since the parent then dials this node without any proxy.

    Raises:
        UsageError: as `parse_proxy`, whether the setting or the environment names it.
    """
    if setting == "none" or (setting == "env" and link == "direct"):
        return None
    if setting != "env":
        return parse_proxy(setting)
    parts = urlsplit(url)

    def named(variable: str) -> str:
        return environ.get(variable) or environ.get(variable.upper()) or ""

    # HTTP_PROXY in upper case is a CGI's name for a header that a client sends: curl does not read it, nor do we.
    found = environ.get("http_proxy", "") if parts.scheme == "http" else named("https_proxy")
    found = found or named("all_proxy")
    if not found or proxy_bypass_environment(parts.netloc.rpartition("@")[2], {"no": named("no_proxy")}):
        return None
    return parse_proxy(found)


async def open_connection(
    url: str, factory: Callable[[], P], *, tls: ssl.SSLContext | None, proxy: Proxy | None
) -> asyncio.Transport:
    """Connect to the host of `url`; the caller sets a time limit.

    Raises:
        OSError: it could not be made, or the proxy refused.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    loop = asyncio.get_running_loop()
    context = tls if is_tls else None
    if is_tls and context is None:
        context = ssl.create_default_context()
    if proxy is None:
        transport, _ = await loop.create_connection(factory, host, port, ssl=context)
        return transport
    sock = await _tunnel(proxy, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    try:
        transport, _ = await loop.create_connection(
            factory, sock=sock, ssl=context, server_hostname=host if context else None
        )
    except BaseException:
        sock.close()
        raise
    return transport


async def _tunnel(proxy: Proxy, authority: str) -> socket.socket:
    """A socket that is connected to `authority` by way of the proxy."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        auth = base64.b64encode(proxy.auth.encode()).decode()
        fields = f"proxy-authorization: Basic {auth}\r\n" if proxy.auth else ""
        await loop.sock_sendall(sock, f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n{fields}\r\n".encode())
        answer = b""
        # The other end says nothing before we do, so nothing of it can stand behind the proxy's answer.
        while b"\r\n\r\n" not in answer:
            data = await loop.sock_recv(sock, 4096)
            answer += data
            if not data or len(answer) > MAX_ANSWER:
                raise ConnectionResetError(f"the proxy {proxy.host}:{proxy.port} gave no answer to CONNECT")
        if not re.match(rb"HTTP/1\.[01] 2\d\d[ \r]", answer):
            line = answer.split(b"\r\n", 1)[0][:100].decode("ascii", "replace")
            raise ConnectionRefusedError(f"the proxy {proxy.host}:{proxy.port} answered CONNECT with {line!r}")
    except BaseException:
        sock.close()
        raise
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
