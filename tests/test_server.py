"""The sockets of a server: ports, addresses, and the messages for those that cannot be used."""

from __future__ import annotations

import socket

import pytest

from hierarchy.config.models import NodeConfig
from hierarchy.errors import UsageError
from hierarchy.server import bind


def config(*listen: tuple[str, int]) -> NodeConfig:
    return NodeConfig(name="n", listen=listen, advertise=f"http://127.0.0.1:{listen[0][1]}")


def close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_port_0_is_replaced_in_the_advertised_address() -> None:
    bound, sockets = bind(config(("127.0.0.1", 0)))
    port = sockets[0].getsockname()[1]
    close(sockets)
    assert port != 0
    assert bound.listen == (("127.0.0.1", port),)
    assert bound.advertise == f"http://127.0.0.1:{port}"


def test_localhost_is_the_same_port_for_ipv4_and_ipv6() -> None:
    _, sockets = bind(config(("localhost", 0)))
    ports = {sock.getsockname()[1] for sock in sockets}
    close(sockets)
    assert len(ports) == 1


def test_several_addresses() -> None:
    _, sockets = bind(config(("127.0.0.1", 0), ("127.0.0.2", 0)))
    hosts = [sock.getsockname()[0] for sock in sockets]
    close(sockets)
    assert hosts == ["127.0.0.1", "127.0.0.2"]


def test_a_taken_port_is_named_and_no_socket_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{port}: port {port} is used"):
            bind(config(("127.0.0.2", port), ("127.0.0.1", port)))
        again = socket.create_server(("127.0.0.2", port))  # fails if the first socket is still open
        again.close()


@pytest.mark.parametrize(
    ("host", "message"), [("no.such.host.invalid", "check the host name"), ("192.0.2.1", "no such address")]
)
def test_a_host_that_is_not_this_machine(host: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bind(config((host, 0)))
