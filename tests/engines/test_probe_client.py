"""The client of probes: what its errors prove, and what it knows of its connection."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hierarchy.engines.probe_client import ProbeClient, Proof, proof_of, reason_of
from hierarchy.engines.probe_sockets import ProbeSockets
from hierarchy.errors import EngineUnreadable
from hierarchy.runtime.resolver import Resolver
from hierarchy.security.dial_guard import DialGuard, ForbiddenAddress
from tests import black_hole
from tests.certificates import Authority
from tests.support import DEADLINE_S, eventually_async, free_port, running_app


async def app(scope: object, receive: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"hello"})  # type: ignore[operator]


def client_of(url: str, **options: object) -> ProbeClient:
    return ProbeClient(url, time.monotonic, Resolver(), **options)  # type: ignore[arg-type]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """It accepts connections, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_refused_connection_is_told_from_a_broken_one() -> None:
    async def work() -> None:
        client = client_of(f"http://localhost:{free_port()}")
        with pytest.raises(OSError) as refused:  # noqa: PT011 - any error of a connection
            await client.ask("GET", "/")
        assert proof_of(refused.value) == "refused"
        assert reason_of(refused.value) == "Connection refused"

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
    error = ConnectionError("")
    error.__cause__ = RuntimeError()
    error.__cause__.__cause__ = ExceptionGroup("all addresses", [ValueError(), OSError(number, "")])
    assert proof_of(error) == proof


def test_an_error_without_a_number_proves_a_bad_answer() -> None:
    assert proof_of(ssl.SSLCertVerificationError(1, "self-signed")) == "bad"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('::1', 1)"), "Connection refused"),
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), "self-signed certificate"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (OSError("engine.test has no address"), "engine.test has no address"),
        (ConnectionError(), "ConnectionError"),
    ],
)
def test_a_reason_is_the_systems_own(error: OSError, reason: str) -> None:
    assert reason_of(error) == reason


def test_one_connection_serves_all_requests() -> None:
    async def work() -> None:
        with running_app(app) as url:
            client = client_of(url + "/")
            first = None
            for _ in range(3):
                response = await client.ask("GET", "/x?y=1")
                assert response == (f"{url}/x?y=1", 200, b"hello")
                first = first or client._connection
            assert client._connection is first
            assert client.unreachable_s(60.0) == 0.0
            assert not client.is_connecting
            client.close()
            assert "closed" in repr(client)

    asyncio.run(work())


def test_each_response_is_a_round_trip_and_an_error_is_none() -> None:
    async def work() -> None:
        trips: list[float] = []
        with running_app(app) as url:
            client = client_of(url, on_round_trip=lambda seconds, now: trips.append(seconds))
            for _ in range(3):
                await client.ask("GET", "/")
            client.close()
        assert len(trips) == 3
        assert all(0 < seconds < DEADLINE_S for seconds in trips)
        client = client_of(url, on_round_trip=lambda seconds, now: trips.append(seconds))
        with pytest.raises(ConnectionRefusedError):
            await client.ask("GET", "/")
        assert len(trips) == 3

    asyncio.run(work())


def test_a_connection_that_the_engine_closed_as_idle_is_replaced() -> None:
    async def work() -> None:
        with running_app(app, timeout_keep_alive=0) as url:
            client = client_of(url)
            for _ in range(3):
                assert (await client.ask("GET", "/")).status == 200
                connection = client._connection
                assert connection is not None
                await eventually_async(lambda connection=connection: not connection.is_open)  # type: ignore[misc]
            client.close()

    asyncio.run(work())


def test_a_redirect_is_not_followed() -> None:
    asked: list[object] = []

    async def elsewhere(scope: dict[str, object], receive: object, send: object) -> None:
        asked.append(scope["path"])
        fields = [(b"location", b"/models"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 307, "headers": fields})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]

    async def work() -> None:
        with running_app(elsewhere) as url:
            client = client_of(url)
            assert (await client.ask("GET", "/v1/models")).status == 307
            client.close()

    asyncio.run(work())
    assert asked == ["/v1/models"]


def test_where_descriptors_are_scarce_no_connection_is_kept() -> None:
    async def work() -> None:
        sockets = ProbeSockets(4)
        with running_app(app) as url:
            clients = [client_of(url, sockets=sockets) for _ in range(3)]
            for client in clients:
                await client.ask("GET", "/")
            with pytest.raises(OSError, match="descriptors") as refused:
                await client_of(url, sockets=sockets).ask("GET", "/")
            assert proof_of(refused.value) == "own"  # it proves nothing about the engine
            for client in clients:
                client.rest()
            assert len(sockets) == 2
            assert (await clients[0].ask("GET", "/")).body == b"hello"
            for client in clients:
                client.close()
            assert len(sockets) == 0

    asyncio.run(work())


@pytest.mark.parametrize("tls", [False, True])
def test_a_connection_that_could_not_be_made_is_not_counted(listener: socket.socket, tls: bool) -> None:
    async def work() -> None:
        sockets, url = ProbeSockets(4), f"http://127.0.0.1:{free_port()}"
        if tls:
            url = url_of(listener).replace("http:", "https:")
            listener.listen()
            accepting = asyncio.ensure_future(asyncio.to_thread(lambda: listener.accept()[0].close()))
        client = client_of(url, sockets=sockets, tls=ssl.create_default_context())
        with pytest.raises(OSError):  # noqa: PT011 - any error of a connection
            await client.ask("GET", "/")
        assert len(sockets) == 0
        if tls:
            await accepting

    asyncio.run(work())


def test_a_key_is_sent_and_a_registered_url_is_guarded() -> None:
    seen: list[object] = []

    async def echo(scope: dict[str, object], receive: object, send: object) -> None:
        seen.append(dict(scope["headers"]))  # type: ignore[call-overload]
        await app(scope, receive, send)

    async def work() -> None:
        with running_app(echo) as url:
            client = client_of(url, key="secret")
            await client.ask("POST", "/")
            client.close()
            guarded = client_of(url, guard=DialGuard(), local=False)
            with pytest.raises(ForbiddenAddress, match="loopback"):
                await guarded.ask("GET", "/")

    asyncio.run(work())
    (headers,) = seen
    assert headers == {
        b"host": headers[b"host"],  # type: ignore[index]
        b"accept": b"*/*",
        b"accept-encoding": b"identity",
        b"user-agent": b"hierarchy",
        b"authorization": b"Bearer secret",
        b"content-length": b"0",
    }


def test_a_certificate_is_checked_for_the_hosts_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("engine", "localhost")
    trusting = ssl.create_default_context(cafile=authority.ca_file)

    async def work() -> None:
        with running_app(app, ssl_certfile=files["cert"], ssl_keyfile=files["key"]) as url:
            port = url.rpartition(":")[2]
            client = client_of(f"https://localhost:{port}", tls=trusting)
            for _ in range(2):
                assert (await client.ask("GET", "/")).body == b"hello"
            assert client.unreachable_s(60.0) == 0.0
            client.close()
            for host, context in (("127.0.0.1", trusting), ("localhost", ssl.create_default_context())):
                client = client_of(f"https://{host}:{port}", tls=context)
                with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed") as failed:
                    await client.ask("GET", "/")
                assert proof_of(failed.value) == "bad"

    asyncio.run(work())


def test_a_tls_handshake_that_hangs_is_not_an_unreachable_machine(listener: socket.socket) -> None:
    async def work() -> None:
        client = client_of(url_of(listener).replace("http:", "https:"), tls=ssl.create_default_context())
        task = asyncio.ensure_future(client.ask("GET", "/"))
        accepted, _ = await asyncio.to_thread(listener.accept)
        await eventually_async(lambda: not client.is_connecting)
        assert client.unreachable_s(60.0) == 0.0  # its kernel acknowledged what was sent
        task.cancel()
        await asyncio.wait([task])
        accepted.close()

    asyncio.run(work())


@black_hole.linux
def test_a_syn_that_is_not_answered_shows(listener: socket.socket) -> None:
    async def work() -> None:
        black_hole.swallow(listener)
        client = client_of(url_of(listener))
        task = asyncio.ensure_future(client.ask("GET", "/"))
        await eventually_async(lambda: client.unreachable_s(60.0) > 0.2)
        assert client.is_connecting
        assert client.unreachable_s(0.1) == 0.1
        task.cancel()
        await asyncio.wait([task])
        assert client.unreachable_s(60.0) == 0.0

    asyncio.run(work())


def test_a_name_that_is_looked_up_for_long_is_no_evidence() -> None:
    answered = threading.Event()

    def look_up(host: str) -> list[str]:
        answered.wait(10.0)
        raise OSError("no such name")

    async def work() -> None:
        client = ProbeClient("http://engine.example:8000", time.monotonic, Resolver(look=look_up))
        task = asyncio.ensure_future(client.ask("GET", "/"))
        await eventually_async(lambda: client.is_connecting)
        assert client.unreachable_s(60.0) == 0.0
        answered.set()
        await asyncio.wait([task])
        assert isinstance(task.exception(), OSError)

    asyncio.run(work())


@black_hole.linux
def test_a_request_that_is_not_acknowledged_shows_and_one_without_a_response_does_not(listener: socket.socket) -> None:
    async def work() -> None:
        client = client_of(url_of(listener))
        task = asyncio.ensure_future(client.ask("GET", "/"))
        accepted, _ = await asyncio.to_thread(listener.accept)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 1.0)
        assert client.unreachable_s(60.0) == 0.0  # its kernel acknowledged it
        accepted.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        assert (await task).status == 200

        black_hole.swallow(accepted)
        task = asyncio.ensure_future(client.ask("GET", "/"))
        await eventually_async(lambda: client.unreachable_s(60.0) > 0.2)
        task.cancel()
        await asyncio.wait([task])
        accepted.close()

    asyncio.run(work())


def test_an_error_of_http_names_the_url() -> None:
    async def junk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-x\r\n\r\n")
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(junk, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(EngineUnreadable, match=f"{url}/v1/models: the response begins with"):
            await client_of(url).ask("GET", "/v1/models")
        server.close()

    asyncio.run(work())
