"""The client of probes: what its errors prove, and what it knows of its connection."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from hierarchy.engines.probe_client import ProbeClient, Proof, proof_of
from hierarchy.runtime.resolver import Resolver
from tests import black_hole
from tests.support import eventually_async, free_port, running_app


async def app(scope: object, receive: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """It accepts connections, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_refused_connection_is_told_from_a_broken_one() -> None:
    async def work() -> None:
        client = ProbeClient(time.monotonic, Resolver())
        with pytest.raises(httpx.ConnectError) as refused:
            await client.http.get(f"http://localhost:{free_port()}")
        assert proof_of(refused.value) == "refused"
        await client.aclose()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("number", "proof"),
    [
        (errno.ETIMEDOUT, "unreachable"),
        (errno.EHOSTUNREACH, "unreachable"),
        (socket.EAI_NONAME, "unreachable"),
        (errno.EMFILE, "own"),
        (errno.EADDRNOTAVAIL, "own"),
        (errno.ECONNRESET, "bad"),
    ],
)
def test_the_number_of_the_systems_error_is_found_behind_the_libraries(number: int, proof: Proof) -> None:
    error = httpx.ReadError("")
    error.__cause__ = RuntimeError()
    error.__cause__.__cause__ = ExceptionGroup("all addresses", [ValueError(), OSError(number, "")])
    assert proof_of(error) == proof


def test_an_error_without_a_number_proves_a_bad_answer() -> None:
    assert proof_of(httpx.RemoteProtocolError("odd")) == "bad"


def test_one_connection_is_used_again_or_none_is_kept() -> None:
    async def work(keep: bool) -> int:
        client = ProbeClient(time.monotonic, Resolver(), keep=keep)
        with running_app(app) as url:
            for _ in range(3):
                assert (await client.http.get(url)).status_code == 200
            assert client.unreachable_s(60.0) == 0.0
            assert not client.is_connecting
            kept = len(client.http._transport._pool.connections)  # type: ignore[attr-defined]
            await client.aclose()
            return int(kept)

    assert asyncio.run(work(True)) == 1
    assert asyncio.run(work(False)) == 0


@black_hole.linux
def test_a_syn_that_is_not_answered_shows(listener: socket.socket) -> None:
    async def work() -> None:
        black_hole.swallow(listener)
        client = ProbeClient(time.monotonic, Resolver())
        task = asyncio.ensure_future(client.http.get(url_of(listener)))
        await eventually_async(lambda: client.unreachable_s(60.0) > 0.2)
        assert client.is_connecting
        assert client.unreachable_s(0.1) == 0.1
        task.cancel()
        await asyncio.wait([task])
        assert client.unreachable_s(60.0) == 0.0
        await client.aclose()

    asyncio.run(work())


def test_a_name_that_is_looked_up_for_long_is_no_evidence() -> None:
    answered = threading.Event()

    def look_up(host: str) -> list[str]:
        answered.wait(10.0)
        raise OSError("no such name")

    async def work() -> None:
        client = ProbeClient(time.monotonic, Resolver(look=look_up))
        task = asyncio.ensure_future(client.http.get("http://engine.example:8000"))
        await eventually_async(lambda: client.is_connecting)
        assert client.unreachable_s(60.0) == 0.0
        answered.set()
        await asyncio.wait([task])
        assert isinstance(task.exception(), httpx.ConnectError)
        await client.aclose()

    asyncio.run(work())


@black_hole.linux
def test_a_request_that_is_not_acknowledged_shows_and_one_without_a_response_does_not(listener: socket.socket) -> None:
    async def work() -> None:
        client = ProbeClient(time.monotonic, Resolver())
        task = asyncio.ensure_future(client.http.get(url_of(listener)))
        accepted, _ = await asyncio.to_thread(listener.accept)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 1.0)
        assert client.unreachable_s(60.0) == 0.0  # its kernel acknowledged it
        task.cancel()
        await asyncio.wait([task])
        accepted.close()

        task = asyncio.ensure_future(client.http.post(url_of(listener), content=slowly()))
        accepted, _ = await asyncio.to_thread(listener.accept)
        black_hole.swallow(accepted)
        await eventually_async(lambda: client.unreachable_s(60.0) > 0.2)
        task.cancel()
        await asyncio.wait([task])
        accepted.close()
        await client.aclose()

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x"
            await asyncio.sleep(0.05)

    asyncio.run(work())
