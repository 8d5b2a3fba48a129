"""TLS connections before their handshake is over: they have places, and little time."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import httpx
import pytest

from hierarchy.config.models import NodeConfig, Settings
from hierarchy.relay.downstream import tls_listener
from tests.certificates import Authority
from tests.cluster import Cluster, Running
from tests.support import DEADLINE_S, eventually

MOST = 12


@pytest.fixture
def node(cluster: Cluster, authority: Authority) -> Running:
    fields = {"grace_s": 5.0, "tls": authority.issue("n"), "max_connections_per_address": MOST}
    settings = Settings.model_validate(fields)
    config = NodeConfig(name="n", listen=(("127.0.0.1", 0),), advertise="https://127.0.0.1:0", settings=settings)
    return cluster.serve(config)


@pytest.fixture
def silent(node: Running) -> Iterator[list[socket.socket]]:
    """Connections on which nothing is sent."""
    sockets: list[socket.socket] = []
    yield sockets
    for sock in sockets:
        sock.close()


def connect(node: Running, sockets: list[socket.socket], count: int) -> None:
    sockets += [socket.create_connection(("127.0.0.1", node.port)) for _ in range(count)]


def is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def places(node: Running) -> int:
    assert node.node.clients.places is not None
    return len(node.node.clients.places)


def test_handshakes_that_never_end_have_places_and_make_room(
    node: Running, silent: list[socket.socket], authority: Authority
) -> None:
    connect(node, silent, 4 * MOST)
    eventually(lambda: sum(map(is_open, silent)) <= MOST, "those that are too many to be closed")
    assert places(node) <= MOST
    with authority.client() as client:
        assert client.get(f"{node.url}/health").status_code == 200
    assert sum(map(is_open, silent)) > 0, "no more than needed"


def test_a_handshake_has_only_so_much_time(
    node: Running, silent: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tls_listener.HANDSHAKE_S < 60
    for server in node.server.servers:
        monkeypatch.setattr(server, "_handshake_s", 0.05)
    connect(node, silent, 3)
    silent[0].sendall(b"\x16\x03\x01\x02\x00")  # a handshake that begins
    eventually(lambda: not any(map(is_open, silent)), "the handshakes to end")
    eventually(lambda: places(node) == 0, "their places to be free")


def test_every_place_is_given_back_once(node: Running, authority: Authority) -> None:
    trusting = ssl.create_default_context(cafile=authority.issue("n")["ca"])
    distrustful = ssl.create_default_context()

    def use(context: ssl.SSLContext | None) -> None:
        with closing(socket.create_connection(("127.0.0.1", node.port), timeout=DEADLINE_S)) as sock:
            if context is None:
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                sock.recv(100)
                return
            with context.wrap_socket(sock, server_hostname="localhost") as secure:
                assert places(node) > 0
                secure.sendall(b"GET /health HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n")
                assert secure.recv(100).startswith(b"HTTP/1.1 200")

    def client() -> None:
        for context in (trusting, distrustful, None) * 3:
            with suppress(ssl.SSLError, ConnectionError):
                use(context)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: places(node) == 0, "all places to be free")
    assert httpx.Client(verify=trusting).get(f"{node.url}/health").status_code == 200
