"""One small request to a child: its whole response, or an error with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hierarchy.errors import ChildFailed, DeadlinePassed
from hierarchy.registry.child import NODE, Child
from hierarchy.relay.upstream.connection import Upstream
from hierarchy.relay.upstream.pool import Pool
from hierarchy.relay.upstream.request import send_request
from tests.relay.raw import SSE_HEAD, FakeTransport, chunk, http_response

Play = Callable[[Upstream], Awaitable[None]]


class Rig:
    """A pool whose connections play a script: bytes of a response, None to close."""

    def __init__(self, *scripts: bytes | None, idle: int = 0) -> None:
        child = Child("site", "http://127.0.0.1:1/base", NODE)
        child.secret = b"secret"
        self.pool = Pool(child, 1.0, None, lambda: 0.0)
        self.scripts = list(scripts)
        self.transports: list[Any] = []
        self.pool.connect = self.dial
        for _ in range(idle):
            upstream = self.connect()
            upstream._served = 1
            self.pool.put(upstream)

    def connect(self) -> Upstream:
        upstream, script = Upstream(self.pool), self.scripts.pop(0)
        transport: Any = FakeTransport()
        self.transports.append(transport)
        upstream.connection_made(transport)
        write = transport.write

        def play(data: bytes) -> None:
            write(data)
            loop = asyncio.get_running_loop()
            if script is None:
                transport.state = "closed"
                loop.call_soon(upstream.connection_lost, None)
            elif script:
                loop.call_soon(upstream.data_received, script)

        transport.write = play
        return upstream

    async def dial(self, *arguments: Any, **options: Any) -> Upstream:
        if not self.scripts:
            raise ConnectionRefusedError(111, "Connection refused")
        return self.connect()

    def request(self, *arguments: Any, **options: Any) -> tuple[int, bytes]:
        return asyncio.run(send_request(self.pool, *arguments, **options))


def test_a_request_carries_the_secret_and_returns_status_and_body() -> None:
    rig = Rig(http_response(b"no", status=b"404 Not Found"))
    assert rig.request("POST", "/admin/drain?x=1", b"{}") == (404, b"no")
    sent = rig.transports[0].output
    assert sent.startswith(b"POST /base/admin/drain?x=1 HTTP/1.1\r\nhost: 127.0.0.1:1\r\nx-hierarchy-auth: secret\r\n")
    assert sent.endswith(b"content-length: 2\r\n\r\n{}")
    assert len(rig.pool.idle) == 1  # to be used again


def test_a_chunked_response_is_returned_without_its_framing() -> None:
    rig = Rig(SSE_HEAD + chunk(b"one ") + chunk(b"two") + chunk(b""))
    assert rig.request("GET", "/admin/status") == (200, b"one two")


def test_an_idle_connection_is_used_and_replaced_if_it_was_stale() -> None:
    rig = Rig(None, http_response(b"fresh"), idle=1)
    assert rig.request("GET", "/x") == (200, b"fresh")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "site closed the connection"),
        (b"HTTP/2 what\r\n\r\n", "site sent a malformed response"),
        (http_response(b"x" * 101), "longer than 100 bytes"),
    ],
)
def test_errors_contain_the_reason(script: bytes | None, message: str) -> None:
    rig = Rig(script)
    with pytest.raises(ChildFailed, match=message):
        rig.request("GET", "/x", limit=100)


def test_a_child_that_cannot_be_reached() -> None:
    with pytest.raises(ChildFailed, match="site Connection refused"):
        Rig().request("GET", "/x")


def test_a_connection_without_a_response_is_not_used_again() -> None:
    rig = Rig(b"")
    with pytest.raises(DeadlinePassed):
        rig.request("GET", "/x", timeout_s=0.02)
    assert rig.transports[0].state == "aborted"
    assert not rig.pool.idle
