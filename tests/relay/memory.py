"""A lane without sockets: real protocol objects on fake transports.

The test controls the clock, the bytes and the turns of the loop, so it can check the state between any two callbacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.config.models import NodeConfig, Settings
from hierarchy.registry import Registry
from hierarchy.relay.downstream.clients import Clients
from hierarchy.relay.downstream.protocol import LaneProtocol, protocol_factory
from hierarchy.relay.lane import Lane
from hierarchy.relay.upstream.connection import Upstream
from hierarchy.runtime.metrics import Metrics
from hierarchy.security.access import Access
from hierarchy.wire.messages import Identity
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.relay.raw import MODEL, OK_BODY, FakeTransport, http_response

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


async def ok_app(scope: Any, receive: Receive, send: Send) -> None:
    """Answers every request at once."""
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(OK_BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": OK_BODY})


class Link:
    """A client's connection, or one to the engine: a protocol object and its transport."""

    def __init__(self, protocol: Any, transport: FakeTransport | None = None) -> None:
        self.protocol = protocol
        self.transport = transport or FakeTransport()
        self.lost = False
        protocol.connection_made(self.transport)

    def feed(self, data: bytes) -> None:
        """Deliver bytes, unless the connection is closing."""
        if not self.transport.is_closing():
            self.protocol.data_received(data)

    def lose(self, error: Exception | None = None) -> None:
        """The connection is gone, once."""
        if not self.lost:
            self.lost = True
            self.transport.state = "closed"
            self.protocol.connection_lost(error)

    def settle(self) -> None:
        """Report the loss of a closing connection, as asyncio does in its next turn."""
        if self.transport.is_closing():
            self.lose()


class MemoryLane:
    """The lane of one node with one engine, whose connections (`upstreams`) exist without being dialled."""

    def __init__(self, app: Any = ok_app, connections: int = 1, **settings: Any) -> None:
        self.now = 0.0
        self.loop = asyncio.get_running_loop()
        registry = Registry(Identity("n", "http://n", "i"), lambda: self.now)
        self.child = registry.declare("e", "http://127.0.0.1:1", "openai")
        registry.report(self.child, NodeStatus((ModelStatus(MODEL),), 1.0))
        made = Settings.model_validate({"hold_s": 0.0, **settings})
        dispatch = Dispatch(registry, "shortest_queue", Random(0))
        access = Access(NodeConfig(name="n", advertise="http://n", settings=made))
        self.clients = Clients()
        self.lane = Lane(registry, dispatch, Metrics(), made, lambda secret, seq: None, lambda: self.now, access)
        self.pool = self.lane.pool(self.child)
        self.state = ServerState()
        self.protocols = protocol_factory(self.lane, self.clients)
        self.config = uvicorn.Config(app, http=self.protocols, ws="none", log_config=None)  # type: ignore[arg-type]
        self.upstreams: list[Link] = []
        for _ in range(connections):
            self.add_upstream()

    def add_upstream(self) -> Link:
        upstream = Link(Upstream(self.pool))
        self.upstreams.append(upstream)
        self.pool.put(upstream.protocol)
        return upstream

    def connect(self) -> Link:
        protocol = self.protocols(config=self.config, server_state=self.state, app_state={}, _loop=self.loop)
        return Link(protocol)

    @property
    def upstream(self) -> Link:
        return self.upstreams[-1]

    def requests(self) -> list[bytes]:
        """Bytes that were written to the engine, one item per connection."""
        return [link.transport.output for link in self.upstreams if link.transport.output]

    def respond_all(self, data: bytes = http_response()) -> list[bytes]:
        """Let the engine respond to all requests that it has received; returns them."""
        received = []
        for link in self.upstreams:
            if link.transport.output:
                received.append(link.transport.output)
                link.transport.written.clear()
                link.feed(data)
        return received

    def sweep(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.lane.sweep()
        self.clients.sweep(self.now)

    async def turn(self) -> None:
        """Run everything that is scheduled in the loop."""
        for _ in range(4):
            await asyncio.sleep(0)

    @property
    def leases(self) -> int:
        return self.child.in_flight


def in_memory(test: Callable[..., Awaitable[None]]) -> Callable[[], None]:
    """Make a coroutine function a test."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 10.0))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def protocol_of(link: Link) -> LaneProtocol:
    assert isinstance(link.protocol, LaneProtocol)
    return link.protocol


def statuses(link: Link) -> list[int]:
    """The statuses of the responses that a client has received."""
    return [int(part[:3]) for part in link.transport.output.split(b"HTTP/1.1 ")[1:]]
