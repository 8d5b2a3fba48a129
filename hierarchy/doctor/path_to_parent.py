"""The way from this machine to the parent, step by step: name, TCP, TLS, a node that answers, an Upgrade, its clock."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import msgspec

from hierarchy.config.address import join_address, parse_url
from hierarchy.doctor.finding import Finding, fail, ok, warn
from hierarchy.http.link_handshake import link_request
from hierarchy.uplink.dial import Proxy, open_connection

TIMEOUT_S = 5.0
MAX_ANSWER = 16 * 1024
#: what a child asks for that opens a link, see docs/reference/protocol.md
CLOCK_OFF_S = 5.0  # more is worth a word: logs of two machines cannot be laid side by side, certificates expire early


@dataclass
class Way:
    """What was found out on the way; later steps are left out once one has failed."""

    url: str
    proxy: Proxy | None = None  #: on the way
    findings: list[Finding] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    reached: bool = False  #: TCP, and TLS where there is any
    upgrades: bool = False
    answers: bool = False  #: a node of ours answers there

    @property
    def here(self) -> bool:
        """Does the parent stand on this very machine, as its addresses say?"""
        return (
            self.proxy is None
            and bool(self.addresses)
            and all(ipaddress.ip_address(ip.partition("%")[0]).is_loopback for ip in self.addresses)
        )


async def walk(
    url: str,
    http: httpx.AsyncClient,
    now: Callable[[], float] = time.time,
    tls: ssl.SSLContext | None = None,
    proxy: Proxy | None = None,
) -> Way:
    """Try each step to the node at `url`. tls: for an https one; default: what this machine trusts. proxy: on the way;
    `http` goes through it too."""
    way = Way(url, proxy)
    tls = (tls or ssl.create_default_context()) if url.startswith("https:") else None
    _, (host, port) = parse_url(url)
    # Through a proxy it is the proxy that must resolve the parent's name.
    first = (proxy.host, proxy.port) if proxy is not None else (host, port)
    if not await _resolve(way, *first) or not await _connect(way, host, port):
        return way
    if tls is not None and not await _handshake(way, host, port, tls):
        return way
    way.reached = True
    await _greet(way, http, now)
    await _upgrade(way, host, port, tls)
    return way


async def _open(
    way: Way, host: str, port: int, tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As the node itself connects to its parent."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    url = f"{'https' if tls else 'http'}://{join_address((host, port))}"
    transport = await open_connection(url, lambda: protocol, tls=tls, proxy=way.proxy)
    return reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())


async def _resolve(way: Way, host: str, port: int) -> bool:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        mend = "check the name in `listen` or `advertise` of the parent, and this machine's DNS"
        way.findings.append(fail("name", f"{host}: {_words(error)}", mend))
        return False
    way.addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    way.findings.append(ok("name", f"{host} is {', '.join(way.addresses)}"))
    return True


async def _connect(way: Way, host: str, port: int) -> bool:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await _open(way, host, port)
    except TimeoutError:
        what, mend = f"no answer within {TIMEOUT_S:g} s", "a firewall drops it: open the port in this direction"
    except OSError as error:
        what, mend = _words(error), "is the parent up, and does it listen on that address?"
    else:
        took = f"{(time.perf_counter() - began) * 1000:.1f} ms"
        by = "" if way.proxy is None else f", through the proxy {join_address((way.proxy.host, way.proxy.port))}"
        way.findings.append(ok("tcp", f"{host}:{port} in {took}{by}"))
        writer.close()
        return True
    way.findings.append(fail("tcp", f"{host}:{port}: {what}", mend))
    return False


async def _handshake(way: Way, host: str, port: int, tls: ssl.SSLContext) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await _open(way, host, port, tls)
    except ssl.SSLCertVerificationError as error:
        mend = "give this machine the certificate of the parent's authority, or the parent one for that name"
        way.findings.append(fail("tls", f"its certificate is not accepted: {error.verify_message}", mend))
        return False
    except (OSError, TimeoutError) as error:
        way.findings.append(fail("tls", f"no handshake: {_words(error)}", "is that port served with TLS?"))
        return False
    certificate, cipher = writer.get_extra_info("peercert") or {}, writer.get_extra_info("cipher") or ("?", "?")
    writer.close()
    until = str(certificate.get("notAfter", "an unknown day"))
    way.findings.append(ok("tls", f"{cipher[1]}, its certificate is good until {until}"))
    return True


async def _greet(way: Way, http: httpx.AsyncClient, now: Callable[[], float]) -> None:
    """Is it one of our nodes, and does its clock agree with ours?"""
    try:
        before = now()
        answer = await http.get(f"{way.url}/health", timeout=TIMEOUT_S)
        after = now()
        page = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        way.findings.append(
            fail("node", f"/health: {_words(error)}", "what listens there does not speak HTTP as a node does")
        )
        return
    except ValueError:
        page = None
    if answer.is_success and page == {"status": "ok"}:
        way.answers = True
        way.findings.append(ok("node", "a node, which tells its name to nobody without a key"))
    elif not answer.is_success or not isinstance(page, dict) or "node" not in page:
        server = answer.headers.get("server", "")
        said = f"/health answered {answer.status_code}" + (f" by {server}" if server else "")
        way.findings.append(
            warn("node", f"{said}: no node of ours", "is this an original controller, or a proxy's page?")
        )
    else:
        way.answers = True
        way.findings.append(ok("node", f"{page['node']} {page.get('version', '')}".rstrip()))
    way.findings.append(_clock(answer.headers.get("date"), (before + after) / 2))


def _clock(date: str | None, now: float) -> Finding:
    try:
        theirs: datetime | None = parsedate_to_datetime(date or "")
    except ValueError:
        theirs = None
    if theirs is None:
        return warn("clock", "the parent's answer has no Date to compare with")
    # The header has whole seconds, cut off: half a second is its middle.
    off = now - (theirs.timestamp() + 0.5)
    if abs(off) <= CLOCK_OFF_S:
        return ok("clock", "agrees with the parent's" if abs(off) < 1.5 else f"{abs(off):.0f} s off the parent's")
    order = "ahead of" if off > 0 else "behind"
    return warn("clock", f"{abs(off):.0f} s {order} the parent's", "let both machines follow NTP")


async def _upgrade(way: Way, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    """Does a request to turn the connection round arrive at the node, and its answer here?"""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await _open(way, host, port, tls)
            try:
                writer.write(link_request(way.url.partition("://")[2].encode(), b"", b"", b""))
                answer = await _answer(reader)
            finally:
                writer.close()
    except (OSError, TimeoutError, EOFError) as error:
        mend = "something on the way closes such connections: `link: reverse` cannot work through it"
        way.findings.append(fail("upgrade", f"no answer to a request for a link: {_words(error)}", mend))
        return
    finding = judge_upgrade(*answer)
    way.upgrades = finding.mark.value == "ok"
    way.findings.append(finding)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, Mapping[str, str], bytes]:
    """(status, fields with names in lower case, body) of one answer; a body without a length is left out."""
    head = (await reader.readuntil(b"\r\n\r\n"))[:MAX_ANSWER].decode("latin-1")
    first, *lines = head.split("\r\n")
    words = first.split()
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise EOFError(f"what came is no HTTP: {first[:40]!r}")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = fields.get("content-length", "0")
    body = await reader.readexactly(min(int(length), MAX_ANSWER)) if length.isdigit() else b""
    return int(words[1]), fields, body


def judge_upgrade(status: int, fields: Mapping[str, str], body: bytes) -> Finding:
    """What an answer to a request for a link means. A node refuses a stranger's, but in its own words."""
    if status == httpx.codes.SWITCHING_PROTOCOLS:
        return ok("upgrade", "answered 101: a link would come up")
    try:
        page: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        page = None
    error = page.get("error") if isinstance(page, dict) else None
    if 400 <= status < 500 and isinstance(error, dict) and {"message", "type", "code"} <= error.keys():
        return ok("upgrade", f"arrives at the node, which answers {status} to a stranger, as it should")
    by = f" by {fields['server']}" if fields.get("server") else ""
    mend = "a proxy on the way answers instead of the node: let it pass Upgrade on, or go round it"
    return fail("upgrade", f"answered {status}{by}, not by a node", mend)


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {TIMEOUT_S:g} s"
    if isinstance(error, ConnectionError) and error.errno:  # asyncio puts words of its own into these
        return os.strerror(error.errno)
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
