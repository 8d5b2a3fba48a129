"""The path from this machine to the parent, step by step: name, TCP, TLS, a node that responds, its clock, a link."""

from __future__ import annotations

import asyncio
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
from hierarchy.doctor.finding import Finding, Verdict, fail, ok, warn
from hierarchy.errors import describe
from hierarchy.http.link_handshake import link_request
from hierarchy.runtime.fetch import Fetched, fetch
from hierarchy.runtime.listening import is_own_address
from hierarchy.uplink.dial import Proxy, open_connection

TIMEOUT_S = 5.0
MAX_RESPONSE = 16 * 1024  # bytes of the head, and of the body, of the response to a request for a link
MAX_CLOCK_OFFSET_S = 5.0  # with more, the logs of two machines cannot be compared, and certificates expire early
DATE_ROUNDING_S = 0.5  # the Date field has whole seconds, rounded down; this is the middle of the second


@dataclass
class PathToParent:
    """What was found on the path. After a failed step, the later ones are not tried."""

    #: URL of the parent
    url: str
    #: the proxy on the path; None for none
    proxy: Proxy | None = None
    #: one for each step that was tried
    findings: list[Finding] = field(default_factory=list)
    #: IP addresses of the parent, or of the proxy
    addresses: list[str] = field(default_factory=list)
    #: a TCP connection can be made, and TLS for an https URL
    reached: bool = False
    #: a node responds there
    is_node: bool = False
    #: a request for a link reaches the node
    allows_links: bool = False

    @property
    def same_machine(self) -> bool:
        """Whether the parent is on this machine: all its addresses are this machine's."""
        return self.proxy is None and bool(self.addresses) and all(map(is_own_address, self.addresses))


async def check_path(
    url: str,
    http: httpx.AsyncClient,
    now: Callable[[], float] = time.time,
    tls: ssl.SSLContext | None = None,
    proxy: Proxy | None = None,
) -> PathToParent:
    """Try each step of the path to the node at `url`.

    Args:
        http: client for requests to the node; it uses `proxy` too.
        now: Unix seconds.
        tls: for an https URL; default: trusts the CAs of the system.
        proxy: the proxy on the path; None for none.
    """
    path = PathToParent(url, proxy)
    tls = (tls or ssl.create_default_context()) if url.startswith("https:") else None
    _, (host, port) = parse_url(url)
    resolved = (proxy.host, proxy.port) if proxy is not None else (host, port)  # the proxy resolves the parent's name
    if not await _resolve(path, *resolved) or not await _connect(path, host, port):
        return path
    if tls is not None and not await _handshake(path, host, port, tls):
        return path
    path.reached = True
    await _get_health(path, http, now)
    await _request_link(path, host, port, tls)
    return path


async def _open(
    path: PathToParent, host: str, port: int, tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as the node itself connects to its parent."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    url = f"{'https' if tls else 'http'}://{join_address((host, port))}"
    transport = await open_connection(url, lambda: protocol, tls=tls, proxy=path.proxy)
    return reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())


async def _resolve(path: PathToParent, host: str, port: int) -> bool:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        hint = "check the name in `listen` or `advertise` of the parent, and the DNS of this machine"
        path.findings.append(fail("name", f"{host}: {_reason(error)}", hint))
        return False
    path.addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    path.findings.append(ok("name", f"{host} is {', '.join(path.addresses)}"))
    return True


async def _connect(path: PathToParent, host: str, port: int) -> bool:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await _open(path, host, port)
    except TimeoutError:
        reason, hint = f"no response within {TIMEOUT_S:g} s", "a firewall drops it: open the port in this direction"
    except OSError as error:
        reason, hint = _reason(error), "is the parent running, and does it listen at that address?"
    else:
        took = f"{(time.perf_counter() - began) * 1000:.1f} ms"
        by = "" if path.proxy is None else f", through the proxy {join_address((path.proxy.host, path.proxy.port))}"
        path.findings.append(ok("tcp", f"{host}:{port} in {took}{by}"))
        writer.close()
        return True
    path.findings.append(fail("tcp", f"{host}:{port}: {reason}", hint))
    return False


async def _handshake(path: PathToParent, host: str, port: int, tls: ssl.SSLContext) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await _open(path, host, port, tls)
    except ssl.SSLCertVerificationError as error:
        hint = "give this machine the certificate of the parent's CA, or the parent a certificate for that name"
        path.findings.append(fail("tls", f"the parent's certificate is not accepted: {error.verify_message}", hint))
        return False
    except (OSError, TimeoutError) as error:
        path.findings.append(fail("tls", f"no handshake: {_reason(error)}", "does that port use TLS?"))
        return False
    certificate, cipher = writer.get_extra_info("peercert") or {}, writer.get_extra_info("cipher") or ("?", "?")
    writer.close()
    until = str(certificate.get("notAfter", "an unknown day"))
    path.findings.append(ok("tls", f"{cipher[1]}, the parent's certificate is valid until {until}"))
    return True


async def _get_health(path: PathToParent, http: httpx.AsyncClient, now: Callable[[], float]) -> None:
    """Check that a node responds, and that its clock agrees with this machine's."""
    try:
        before = now()
        response = await fetch(http, "GET", f"{path.url}/health", timeout_s=TIMEOUT_S)
        after = now()
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        hint = "what listens there does not speak HTTP as a node does"
        path.findings.append(fail("node", f"/health: {_reason(error)}", hint))
        return
    finding = _judge_health(response, response.json_or_none())
    path.is_node = finding.verdict is Verdict.OK
    path.findings += [finding, _judge_clock(response.headers.get("date"), (before + after) / 2)]


def _judge_health(response: Fetched, page: object) -> Finding:
    """Whether a node sent the response to /health. page: the decoded body; None if it is not JSON."""
    if response.is_ok and page == {"status": "ok"}:
        return ok("node", "a node, which shows its name only with a key")
    if response.is_ok and isinstance(page, dict) and "node" in page:
        return ok("node", f"{page['node']} {page.get('version', '')}".rstrip())
    server = response.headers.get("server", "")
    what = f"/health answered {response.status}" + (f" by {server}" if server else "")
    return warn("node", f"{what}: not a node", "is it FastChat's controller, or a page of a proxy?")


def _judge_clock(date: str | None, now: float) -> Finding:
    """Compare the parent's `Date` field with this machine's clock at that moment."""
    try:
        parents_time: datetime | None = parsedate_to_datetime(date or "")
    except ValueError:
        parents_time = None
    if parents_time is None:
        return warn("clock", "the parent's response has no Date to compare with")
    offset_s = now - (parents_time.timestamp() + DATE_ROUNDING_S)
    if abs(offset_s) <= MAX_CLOCK_OFFSET_S:
        agrees = abs(offset_s) < 1.5
        return ok("clock", "agrees with the parent's" if agrees else f"{abs(offset_s):.0f} s off the parent's")
    order = "ahead of" if offset_s > 0 else "behind"
    return warn("clock", f"{abs(offset_s):.0f} s {order} the parent's", "synchronize both machines with NTP")


async def _request_link(path: PathToParent, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    """Check that a request for a link reaches the node, and its response this machine."""
    authority = path.url.partition("://")[2].encode()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await _open(path, host, port, tls)
            try:
                writer.write(link_request(authority, b"", b"", b""))  # without a name: from an unknown child
                response = await _read_response(reader)
            finally:
                writer.close()
    except (OSError, TimeoutError, EOFError) as error:
        hint = "something on the path closes such connections: `link: reverse` cannot work through it"
        path.findings.append(fail("upgrade", f"no response to a request for a link: {_reason(error)}", hint))
        return
    finding = judge_upgrade(*response)
    path.allows_links = finding.verdict is Verdict.OK
    path.findings.append(finding)


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, Mapping[str, str], bytes]:
    """(status, fields with names in lower case, body) of one response; a body without a length is left out."""
    head = (await reader.readuntil(b"\r\n\r\n"))[:MAX_RESPONSE].decode("latin-1")
    first, *lines = head.split("\r\n")
    parts = first.split()
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise EOFError(f"the response is not HTTP: {first[:40]!r}")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = fields.get("content-length", "0")
    body = await reader.readexactly(min(int(length), MAX_RESPONSE)) if length.isdigit() else b""
    return int(parts[1]), fields, body


def judge_upgrade(status: int, fields: Mapping[str, str], body: bytes) -> Finding:
    """What a response to a request for a link means. A node refuses an unknown child with an error object.

    Args:
        status: HTTP status.
        fields: names in lower case, and values.
    """
    if status == httpx.codes.SWITCHING_PROTOCOLS:
        return ok("upgrade", "answered 101: links work")
    try:
        page: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        page = None
    error = page.get("error") if isinstance(page, dict) else None
    if 400 <= status < 500 and isinstance(error, dict) and {"message", "type", "code"} <= error.keys():
        return ok("upgrade", f"reaches the node, which refuses an unknown child with {status}, as it should")
    by = f" by {fields['server']}" if fields.get("server") else ""
    hint = "a proxy on the path responds instead of the node: let it pass Upgrade on, or bypass it"
    return fail("upgrade", f"answered {status}{by}, not by a node", hint)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {TIMEOUT_S:g} s"
    if isinstance(error, ConnectionError) and error.errno:  # asyncio puts its own text into these
        return os.strerror(error.errno)
    return (error.strerror if isinstance(error, OSError) else "") or describe(error)
