"""Requests of the control plane: bounded, not decompressed, without redirects and cookies, within a time."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from hierarchy.errors import NotJson
from hierarchy.runtime.fetch import Fetched, ResponseRefused, fetch, fetch_now
from tests.runtime.hostile import BOMB, answering, response


def _fetch(how: str, url: str, **options: Any) -> Fetched:
    """Request `url` as the node does ("async"), or as a command does ("now")."""
    if how == "now":
        with httpx.Client(trust_env=False, timeout=options.get("timeout_s", 5.0)) as http:
            return fetch_now(http, "GET", url, **options)

    async def work() -> Fetched:
        async with httpx.AsyncClient(trust_env=False, timeout=None) as http:
            return await fetch(http, "GET", url, **options)

    return asyncio.run(work())


both = pytest.mark.parametrize("how", ["async", "now"])


@both
def test_a_response_is_read_whole(how: str) -> None:
    with answering(response(b'{"a": 1}', "x-y: z")) as (url, requests):
        got = _fetch(how, url, headers={"x-a": "b"})
    assert (got.status, got.is_ok, got.json(), got.headers["x-y"]) == (200, True, {"a": 1}, "z")
    assert b"accept-encoding: identity" in requests[0].lower()
    assert b"x-a: b" in requests[0]


@both
@pytest.mark.parametrize("coding", ["gzip, gzip", "gzip", "deflate", "br", "zstd", "identity, gzip"])
def test_what_is_compressed_is_refused_and_takes_no_memory(how: str, coding: str) -> None:
    with answering(response(BOMB, f"content-encoding: {coding}")) as (url, _):
        tracemalloc.start()
        try:
            with pytest.raises(ResponseRefused, match="content-encoding"):
                _fetch(how, url)
            assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
        finally:
            tracemalloc.stop()


@both
def test_identity_is_no_compression(how: str) -> None:
    with answering(response(b"1", "content-encoding: identity")) as (url, _):
        assert _fetch(how, url).json() == 1


@both
@pytest.mark.parametrize("length", ["content-length: 100000", "content-length: 99999999999999999999", "x: y"])
def test_a_response_over_the_limit_is_refused(how: str, length: str) -> None:
    """Also one that does not say how long it is."""
    head = f"HTTP/1.1 200 OK\r\n{length}\r\nconnection: close\r\n\r\n".encode()
    with answering(head + b"x" * 100_000) as (url, _), pytest.raises(ResponseRefused, match="more than 1000 bytes"):
        _fetch(how, url, max_bytes=1000)


@both
def test_redirects_are_not_followed(how: str) -> None:
    with answering(response(b"", "location: http://127.0.0.1:1/", status="302 Found")) as (url, requests):
        assert _fetch(how, url).status == 302
    assert len(requests) == 1


def test_cookies_are_not_kept() -> None:
    async def work() -> int:
        async with httpx.AsyncClient(trust_env=False) as http:
            await fetch(http, "GET", url)
            return len(http.cookies)

    with answering(response(b"1", "set-cookie: a=b; path=/")) as (url, _):
        assert asyncio.run(work()) == 0


def test_silence_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(httpx.ReadTimeout, match=r"within 0\.1 s"):
        _fetch("async", f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.1)


def test_a_command_gives_up_a_response_that_arrives_for_ever_in_pieces() -> None:
    """Each piece comes in time, so only the limit on the whole ends it."""

    def drip() -> Iterator[bytes]:
        while True:
            yield b" "

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=drip()))
    with httpx.Client(transport=transport) as http, pytest.raises(httpx.ReadTimeout, match=r"within 0\.05 s"):
        fetch_now(http, "GET", "http://node/", timeout_s=0.05)


def test_a_body_that_is_not_json_says_so() -> None:
    with answering(response(b"<html>")) as (url, _):
        got = _fetch("now", url)
    assert got.json_or_none() is None
    assert got.text(3) == "<ht"
    with pytest.raises(NotJson):
        got.json()
