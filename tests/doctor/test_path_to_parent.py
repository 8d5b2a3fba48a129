"""The way to a parent, against servers on loopback that behave well, badly or not at all."""

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
from hierarchy.doctor.finding import Mark
from hierarchy.doctor.path_to_parent import Way, judge_upgrade, walk
from hierarchy.uplink.dial import parse_proxy
from tests.cluster import Cluster
from tests.relay.proxy import Proxy
from tests.support import free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
REFUSAL = {"error": {"message": "no such path", "type": "invalid_request_error", "param": None, "code": "not_found"}}


def http_answer(status: str, body: str, **fields: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close"]
    return "\r\n".join([*head, *(f"{name}: {value}" for name, value in fields.items()), "", body]).encode()


def served(pages: dict[str, bytes | None]) -> Serve:
    """Answers by path, @NOW@ being the date; None: closes without a word; a path that is missing: never answers."""

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


def walked(
    serve: Serve, scheme: str = "http", tls: ssl.SSLContext | None = None, off_s: float = 0.0, trust: Path | None = None
) -> Way:
    trusting = ssl.create_default_context(cafile=trust)

    async def run() -> Way:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        async with httpx.AsyncClient(trust_env=False, verify=trusting) as http:
            url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            way = await walk(url, http, lambda: time.time() + off_s, trusting)
        server.close()
        return way

    return asyncio.run(run())


def marks(way: Way) -> dict[str, str]:
    return {finding.check: finding.mark.value for finding in way.findings}


def said(way: Way, check: str) -> str:
    return next(finding.what for finding in way.findings if finding.check == check)


NODE = http_answer("200 OK", json.dumps({"node": "root", "version": "1"}), date="@NOW@")
LINK = http_answer("404 Not Found", json.dumps(REFUSAL))


def test_a_real_node(cluster: Cluster) -> None:
    node = cluster.node("root")

    async def run() -> Way:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await walk(node.url, http)

    way = asyncio.run(run())
    assert marks(way) == dict.fromkeys(["name", "tcp", "node", "clock", "upgrade"], "ok")
    assert said(way, "node").startswith("root ")
    assert (way.reached, way.answers, way.upgrades, way.here) == (True, True, True, True)


@pytest.mark.parametrize("refuse", [False, True])
def test_through_a_proxy(cluster: Cluster, refuse: bool) -> None:
    node = cluster.node("root")
    with Proxy(cluster, refuse=refuse) as between:
        proxy = parse_proxy(between.url)

        async def run() -> Way:
            async with httpx.AsyncClient(trust_env=False, proxy=proxy.url) as http:
                return await walk(node.url, http, proxy=proxy)

        way = asyncio.run(run())
    assert (way.reached, way.here) == (not refuse, False)
    if refuse:
        assert marks(way) == {"name": "ok", "tcp": "fail"}
        assert "answered CONNECT with 'HTTP/1.1 403 Forbidden'" in said(way, "tcp")
    else:
        assert marks(way) == dict.fromkeys(["name", "tcp", "node", "clock", "upgrade"], "ok")
        assert f"through the proxy 127.0.0.1:{proxy.port}" in said(way, "tcp")


def test_nobody_listens() -> None:
    async def run(url: str) -> Way:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await walk(url, http)

    way = asyncio.run(run(f"http://127.0.0.1:{free_port()}"))
    assert (marks(way), way.reached) == ({"name": "ok", "tcp": "fail"}, False)
    assert "refused" in said(way, "tcp").lower()
    assert marks(asyncio.run(run("http://a..b:1"))) == {"name": "fail"}


def test_one_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_to_parent, "TIMEOUT_S", 0.1)
    way = walked(served({}))
    assert marks(way) == {"name": "ok", "tcp": "ok", "node": "fail", "upgrade": "fail"}
    assert "nothing within 0.1 s" in said(way, "upgrade")


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ({"/health": NODE, "/link": LINK}, {"node": "ok", "clock": "ok", "upgrade": "ok"}),
        ({"/health": NODE, "/link": None}, {"node": "ok", "clock": "ok", "upgrade": "fail"}),
        ({"/health": NODE, "/link": b"SSH-2.0\r\n\r\n"}, {"node": "ok", "clock": "ok", "upgrade": "fail"}),
        (
            {
                "/health": http_answer("200 OK", "<html>", server="nginx"),
                "/link": http_answer("502 Bad Gateway", "<p>"),
            },
            {"node": "warn", "clock": "warn", "upgrade": "fail"},
        ),
        ({"/health": http_answer("200 OK", "null"), "/link": LINK}, {"node": "warn", "clock": "warn", "upgrade": "ok"}),
        ({"/health": b"garbage\r\n\r\n", "/link": LINK}, {"node": "fail", "upgrade": "ok"}),
    ],
)
def test_what_stands_there(pages: dict[str, bytes | None], expected: dict[str, str]) -> None:
    way = walked(served(pages))
    assert {check: mark for check, mark in marks(way).items() if check not in ("name", "tcp")} == expected
    assert way.answers == (expected["node"] == "ok")


@pytest.mark.parametrize(
    ("off_s", "mark", "says"),
    [(3, "ok", "[234] s off"), (90, "warn", "(89|9[01]) s ahead of"), (-90, "warn", "(89|9[01]) s behind")],
)
def test_clocks(off_s: float, mark: str, says: str) -> None:
    way = walked(served({"/health": http_answer("200 OK", "{}", date="@NOW@"), "/link": LINK}), off_s=off_s)
    assert marks(way)["clock"] == mark
    assert re.match(says, said(way, "clock"))


def test_tls_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_to_parent, "TIMEOUT_S", 0.3)
    way = walked(served({"/health": NODE, "/link": LINK}), scheme="https")
    assert (marks(way), way.reached) == ({"name": "ok", "tcp": "ok", "tls": "fail"}, False)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
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
    way = walked(served(pages), "https", tls)
    assert (marks(way)["tls"], way.reached) == ("fail", False)
    assert "self" in said(way, "tls")
    way = walked(served(pages), "https", tls, trust=cert)
    assert (marks(way)["tls"], marks(way)["upgrade"], way.reached) == ("ok", "ok", True)


@pytest.mark.parametrize(
    ("status", "body", "mark"),
    [
        (101, b"", Mark.OK),
        (404, json.dumps(REFUSAL).encode(), Mark.OK),
        (403, json.dumps(REFUSAL).encode(), Mark.OK),
        (502, json.dumps(REFUSAL).encode(), Mark.FAIL),
        (404, b"<html>", Mark.FAIL),
        (404, b'{"error": "no"}', Mark.FAIL),
        (200, b"", Mark.FAIL),
    ],
)
def test_what_an_answer_to_an_upgrade_means(status: int, body: bytes, mark: Mark) -> None:
    assert judge_upgrade(status, {}, body).mark is mark


@given(st.integers(100, 599), st.dictionaries(st.text(max_size=6), st.text(max_size=6)), st.binary(max_size=40))
def test_any_answer_is_judged(status: int, fields: dict[str, Any], body: bytes) -> None:
    assert judge_upgrade(status, fields, body).what
