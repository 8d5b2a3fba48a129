"""The path to a parent, with servers on loopback that respond well, badly or not at all."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.doctor import path_to_parent
from hierarchy.doctor.finding import Verdict
from hierarchy.doctor.path_to_parent import PathToParent, check_path, judge_upgrade
from hierarchy.uplink.dial import parse_proxy
from tests.cluster import Cluster
from tests.relay.proxy import Proxy
from tests.skips import missing
from tests.support import free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
REFUSAL = {"error": {"message": "no such path", "type": "invalid_request_error", "param": None, "code": "not_found"}}


def http_response(status: str, body: str, **fields: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close"]
    return "\r\n".join([*head, *(f"{name}: {value}" for name, value in fields.items()), "", body]).encode()


def served(pages: dict[str, bytes | None]) -> Serve:
    """Responds by path, with the date for @NOW@. None: closes the connection; a path that is missing: no response."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode()
            if path not in pages:
                await reader.read()
            else:
                writer.write((pages[path] or b"").replace(b"@NOW@", formatdate(usegmt=True).encode()))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return serve


def checked(
    serve: Serve,
    scheme: str = "http",
    tls: ssl.SSLContext | None = None,
    offset_s: float = 0.0,
    trust: Path | None = None,
) -> PathToParent:
    trusting = ssl.create_default_context(cafile=trust)

    async def run() -> PathToParent:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        async with httpx.AsyncClient(trust_env=False, verify=trusting) as http:
            url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            path = await check_path(url, http, lambda: time.time() + offset_s, trusting)
        server.close()
        return path

    return asyncio.run(run())


def verdicts(path: PathToParent) -> dict[str, str]:
    return {finding.check: finding.verdict.value for finding in path.findings}


def found(path: PathToParent, check: str) -> str:
    return next(finding.what for finding in path.findings if finding.check == check)


NODE = http_response("200 OK", json.dumps({"node": "root", "version": "1"}), date="@NOW@")
LINK = http_response("404 Not Found", json.dumps(REFUSAL))


def test_a_real_node_passes_all_checks(cluster: Cluster) -> None:
    node = cluster.node("root")

    async def run() -> PathToParent:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await check_path(node.url, http)

    path = asyncio.run(run())
    assert verdicts(path) == dict.fromkeys(["name", "tcp", "node", "clock", "upgrade"], "ok")
    assert found(path, "node").startswith("root ")
    assert (path.reached, path.is_node, path.allows_links, path.same_machine) == (True, True, True, True)


@pytest.mark.parametrize("refuse", [False, True])
def test_a_parent_behind_a_proxy(cluster: Cluster, refuse: bool) -> None:
    node = cluster.node("root")
    with Proxy(cluster, refuse=refuse) as between:
        proxy = parse_proxy(between.url)

        async def run() -> PathToParent:
            async with httpx.AsyncClient(trust_env=False, proxy=proxy.url) as http:
                return await check_path(node.url, http, proxy=proxy)

        path = asyncio.run(run())
    assert (path.reached, path.same_machine) == (not refuse, False)
    if refuse:
        assert verdicts(path) == {"name": "ok", "tcp": "fail"}
        assert "answered CONNECT with 'HTTP/1.1 403 Forbidden'" in found(path, "tcp")
    else:
        assert verdicts(path) == dict.fromkeys(["name", "tcp", "node", "clock", "upgrade"], "ok")
        assert f"through the proxy 127.0.0.1:{proxy.port}" in found(path, "tcp")


def test_a_parent_that_does_not_listen() -> None:
    async def run(url: str) -> PathToParent:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await check_path(url, http)

    path = asyncio.run(run(f"http://127.0.0.1:{free_port()}"))
    assert (verdicts(path), path.reached) == ({"name": "ok", "tcp": "fail"}, False)
    assert "refused" in found(path, "tcp").lower()
    assert verdicts(asyncio.run(run("http://a..b:1"))) == {"name": "fail"}


def test_a_server_that_never_responds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_to_parent, "TIMEOUT_S", 0.1)
    path = checked(served({}))
    assert verdicts(path) == {"name": "ok", "tcp": "ok", "node": "fail", "upgrade": "fail"}
    assert "nothing within 0.1 s" in found(path, "upgrade")


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ({"/health": NODE, "/link": LINK}, {"node": "ok", "clock": "ok", "upgrade": "ok"}),
        ({"/health": NODE, "/link": None}, {"node": "ok", "clock": "ok", "upgrade": "fail"}),
        ({"/health": NODE, "/link": b"SSH-2.0\r\n\r\n"}, {"node": "ok", "clock": "ok", "upgrade": "fail"}),
        (
            {
                "/health": http_response("200 OK", "<html>", server="nginx"),
                "/link": http_response("502 Bad Gateway", "<p>"),
            },
            {"node": "warn", "clock": "warn", "upgrade": "fail"},
        ),
        (
            {"/health": http_response("200 OK", "null"), "/link": LINK},
            {"node": "warn", "clock": "warn", "upgrade": "ok"},
        ),
        ({"/health": b"garbage\r\n\r\n", "/link": LINK}, {"node": "fail", "upgrade": "ok"}),
    ],
)
def test_the_verdicts_for_what_responds(pages: dict[str, bytes | None], expected: dict[str, str]) -> None:
    path = checked(served(pages))
    assert {check: verdict for check, verdict in verdicts(path).items() if check not in ("name", "tcp")} == expected
    assert path.is_node == (expected["node"] == "ok")


@pytest.mark.parametrize(
    ("offset_s", "verdict", "what"),
    [(3, "ok", "[234] s off"), (90, "warn", "(89|9[01]) s ahead of"), (-90, "warn", "(89|9[01]) s behind")],
)
def test_the_difference_of_the_clocks(offset_s: float, verdict: str, what: str) -> None:
    path = checked(served({"/health": http_response("200 OK", "{}", date="@NOW@"), "/link": LINK}), offset_s=offset_s)
    assert verdicts(path)["clock"] == verdict
    assert re.match(what, found(path, "clock"))


def test_https_at_a_port_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_to_parent, "TIMEOUT_S", 0.3)
    path = checked(served({"/health": NODE, "/link": LINK}), scheme="https")
    assert (verdicts(path), path.reached) == ({"name": "ok", "tcp": "ok", "tls": "fail"}, False)


@pytest.mark.skipif(shutil.which("openssl") is None, reason=missing("openssl", "openssl"))
def test_a_certificate_and_whether_it_is_accepted(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key)]
    subprocess.run(
        [*command, "-out", str(cert), "-days", "2", "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    pages: dict[str, bytes | None] = {"/health": NODE, "/link": LINK}
    path = checked(served(pages), "https", tls)
    assert (verdicts(path)["tls"], path.reached) == ("fail", False)
    assert "self" in found(path, "tls")
    path = checked(served(pages), "https", tls, trust=cert)
    assert (verdicts(path)["tls"], verdicts(path)["upgrade"], path.reached) == ("ok", "ok", True)


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (101, b"", Verdict.OK),
        (404, json.dumps(REFUSAL).encode(), Verdict.OK),
        (403, json.dumps(REFUSAL).encode(), Verdict.OK),
        (502, json.dumps(REFUSAL).encode(), Verdict.FAIL),
        (404, b"<html>", Verdict.FAIL),
        (404, b'{"error": "no"}', Verdict.FAIL),
        (200, b"", Verdict.FAIL),
    ],
)
def test_the_verdict_for_a_response_to_a_request_for_a_link(status: int, body: bytes, verdict: Verdict) -> None:
    assert judge_upgrade(status, {}, body).verdict is verdict


@given(st.integers(100, 599), st.dictionaries(st.text(max_size=6), st.text(max_size=6)), st.binary(max_size=40))
def test_any_response_is_judged(status: int, fields: dict[str, Any], body: bytes) -> None:
    assert judge_upgrade(status, fields, body).what
