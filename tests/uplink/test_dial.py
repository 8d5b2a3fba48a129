"""Proxies from the configuration and the environment, and connections through them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from hierarchy.errors import UsageError
from hierarchy.uplink.dial import Proxy, open_connection, parse_proxy, proxy_for
from tests.support import free_port

ENV = {"http_proxy": "http://plain:3128", "HTTPS_PROXY": "tls:8080", "no_proxy": "localhost,.lab,10.0.0.9:21001"}


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://proxy:8080", Proxy("http://proxy:8080", "proxy", 8080)),
        ("proxy", Proxy("http://proxy", "proxy", 3128)),
        ("http://[::1]:1", Proxy("http://[::1]:1", "::1", 1)),
        ("http://joe:s%40t@p:1", Proxy("http://joe:s%40t@p:1", "p", 1, "joe:s@t")),
        ("joe@p:1", Proxy("http://joe@p:1", "p", 1, "joe:")),
    ],
)
def test_a_proxy_as_people_write_it(text: str, proxy: Proxy) -> None:
    assert parse_proxy(text) == proxy


@pytest.mark.parametrize(
    "text", ["https://proxy:1", "socks5://proxy:1", "http://", "http://joe:secret@:1", "http://a:b"]
)
def test_an_error_about_a_proxy_does_not_contain_its_password(text: str) -> None:
    with pytest.raises(UsageError, match="write http://host:port") as caught:
        parse_proxy(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "setting", "host"),
    [
        ("http://root:21001", "env", "plain"),
        ("https://root:21001", "env", "tls"),
        ("https://root:21001", "none", None),
        ("https://localhost:21001", "env", None),
        ("https://root.lab:21001", "env", None),
        ("https://10.0.0.9:21001", "env", None),
        ("https://10.0.0.9:21002", "env", "tls"),
        ("https://localhost:21001", "http://own:1", "own"),  # a proxy that is configured is always used
    ],
)
def test_the_proxy_on_the_path(url: str, setting: str, host: str | None) -> None:
    proxy = proxy_for(url, setting, ENV)
    assert (proxy.host if proxy else None) == host


def test_the_environment_is_not_read_for_a_direct_link() -> None:
    env = {"http_proxy": "http://plain:3128"}
    assert proxy_for("http://root", "env", env, "direct") is None
    for setting, link in (("http://p:1", "direct"), ("env", "reverse"), ("env", "auto")):
        assert proxy_for("http://root", setting, env, link) is not None


def test_the_environment_as_curl_reads_it() -> None:
    assert proxy_for("http://root", "env", {"HTTP_PROXY": "p"}) is None  # a CGI's name for a client's header
    assert proxy_for("http://root", "env", {"no_proxy": "*", "http_proxy": "p"}) is None
    found = proxy_for("http://root", "env", {"ALL_PROXY": "p"})
    assert found is not None
    with pytest.raises(UsageError):
        proxy_for("http://root", "env", {"http_proxy": "socks5://p"})


@contextlib.asynccontextmanager
async def responding(response: bytes) -> AsyncIterator[tuple[Proxy, list[bytes]]]:
    """A proxy that sends `response` to any request, and closes."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response)
        if not response.startswith(b"HTTP/1.1 2"):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Proxy("", "127.0.0.1", server.sockets[0].getsockname()[1], "joe:secret"), heads


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "answered CONNECT with 'HTTP/1.1 407 Proxy"),
        (b"", "did not answer CONNECT"),
        (b"x" * 20_000, "did not answer CONNECT"),
        (b"SSH-2.0-x\r\n\r\n", "answered CONNECT with 'SSH-2.0-x'"),
        (b"HTTP/1.1 2000\r\n\r\n", "answered CONNECT"),
    ],
)
def test_an_error_names_the_proxy_that_does_not_connect(response: bytes, message: str) -> None:
    async def work() -> None:
        async with responding(response) as (proxy, _):
            with pytest.raises(OSError, match=message) as caught:
                await open_connection("http://root:1", asyncio.Protocol, tls=None, proxy=proxy)
            assert str(proxy.port) in str(caught.value)

    asyncio.run(work())


def test_the_request_to_a_proxy() -> None:
    async def work() -> None:
        for url, authority in (("http://root", "root:80"), ("http://[fd00::1]:5", "[fd00::1]:5")):
            async with responding(b"HTTP/1.1 200 OK\r\n\r\n") as (proxy, heads):
                transport = await open_connection(url, asyncio.Protocol, tls=None, proxy=proxy)
                transport.abort()
                assert heads[0].startswith(f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n".encode())
                assert b"\r\nproxy-authorization: Basic am9lOnNlY3JldA==\r\n" in heads[0]

    asyncio.run(work())


def test_a_refused_connection() -> None:
    async def work() -> None:
        port = free_port()
        for proxy in (None, Proxy("", "127.0.0.1", port)):
            with pytest.raises(ConnectionRefusedError):
                await open_connection(f"http://127.0.0.1:{port}", asyncio.Protocol, tls=None, proxy=proxy)

    asyncio.run(work())
