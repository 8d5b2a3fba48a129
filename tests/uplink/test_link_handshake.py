"""The request for a link: one GET and the parent's response, in any pieces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.http.link_handshake import asks_for_link, link_accepted, read_link_request
from hierarchy.registry.admission import Claim
from hierarchy.relay.upstream.links import child_of_link
from hierarchy.uplink.link_handshake import LinkHandshake, RefusedError
from hierarchy.wire.messages import Identity
from tests.builders import registration, site
from tests.http.test_framing import sizes, split
from tests.relay.memory import MemoryLane
from tests.relay.raw import FakeTransport, http_response

ME = Identity("site", "http://site:21001", "site-1")
REFUSED = http_response(b'{"error": "no such child"}', b"connection: close", status=b"404 Not Found")


class Rig:
    """A handshake on a transport that only remembers."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.handshake = LinkHandshake(
            "http://root:21001", ME, b"secret", lambda transport, behind: self.taken.append(behind)
        )
        self.transport = FakeTransport()
        self.handshake.connection_made(self.transport)


def run(work: Any) -> Any:
    return asyncio.run(work())


def test_the_parent_accepts_the_request_for_a_link() -> None:
    async def work() -> None:
        rig = Rig()
        lane = MemoryLane().lane
        child = lane.registry.register(registration(site("site", secret="secret")), claim=Claim(reverse=True))
        head = rig.transport.output
        assert head.startswith(b"GET /link HTTP/1.1\r\nhost: root:21001\r\n")
        assert head.endswith(b"\r\n\r\n")
        pairs = [line.partition(b": ") for line in head.split(b"\r\n")[1:-2]]
        fields = [(name, value) for name, _, value in pairs]
        assert asks_for_link(b"/link", fields)
        assert child_of_link(read_link_request(b"GET", fields), lane.registry.children) is child

    run(work)


@given(sizes, st.sampled_from([b"", b"POST /v1/x HTTP/1.1\r\n", b"\x00" * 100]), st.integers(0, 10**8))
def test_a_101_is_understood_in_any_pieces_and_no_byte_after_it_is_lost(
    cuts: list[int], behind: bytes, wanted: int
) -> None:
    async def work() -> None:
        rig = Rig()
        data = link_accepted(wanted)
        late = b""
        for piece in split(data + behind, cuts):
            if rig.taken:
                late += piece  # would go to the protocol that has taken over
            else:
                rig.handshake.data_received(piece)
        assert rig.handshake.done
        assert await rig.handshake.answered == wanted
        assert b"".join(rig.taken) + late == behind
        assert not rig.transport.is_closing()

    run(work)


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (REFUSED, 404, "no such child"),
        (http_response(b"", status=b"200 OK"), 200, "without a reason"),
        (b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 101, "websocket"),
        (b"SSH-2.0-OpenSSH_9\r\n", 0, "not HTTP"),
        (http_response(b"x" * 100_000, status=b"404 Not Found")[:-1], 404, "very long"),
    ],
)
def test_anything_else_is_a_refusal(data: bytes, status: int, message: str) -> None:
    async def work() -> None:
        rig = Rig()
        rig.handshake.data_received(data)
        rig.handshake.data_received(b"more")
        rig.handshake.connection_lost(None)
        with pytest.raises(RefusedError, match=message) as caught:
            await rig.handshake.answered
        assert caught.value.status == status
        assert rig.transport.state == "aborted"
        assert not rig.taken

    run(work)


@pytest.mark.parametrize("error", [None, ConnectionResetError(), BrokenPipeError(32, "Broken pipe"), ValueError("tls")])
def test_a_connection_that_breaks_before_the_response_is_an_os_error(error: Exception | None) -> None:
    async def work() -> None:
        rig = Rig()
        rig.handshake.data_received(b"HTTP/1.1 101 Sw")
        rig.handshake.connection_lost(error)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await rig.handshake.answered

    run(work)


def test_interim_responses_are_skipped() -> None:
    async def work() -> None:
        rig = Rig()
        rig.handshake.data_received(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        rig.handshake.data_received(link_accepted(3))
        assert await rig.handshake.answered == 3

    run(work)
