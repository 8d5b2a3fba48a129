"""A loop in a thread, engines that play a script of bytes, and trees of real nodes.

Tests are plain functions with blocking sockets; nodes and engines live on uvloop in a thread, as in production. A
test looks inside of them through `World.call`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop

from hierarchy.api import build_app
from hierarchy.config.models import EngineConfig, EngineKind, NodeConfig, Settings
from hierarchy.node import Node
from hierarchy.registry.child import Child
from hierarchy.relay.downstream.connection import Connection
from hierarchy.relay.downstream.protocol import LaneProtocol
from hierarchy.relay.exchange import Exchange
from hierarchy.server import Server, bind
from tests.clocks import SkewedClock
from tests.relay.raw import MODEL, Client, ReceivedResponse, http_response, reset
from tests.support import DEADLINE_S, eventually

T = TypeVar("T")
# Steps of a script beside bytes to write.
CLOSE = "close"  # FIN, after what was written
RESET = "reset"  # RST
HOLD = "hold"  # until the lane closes the connection, or `Engine.release`
Step = bytes | str
Script = Iterable[Step]


class World:
    """The loop in a thread."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.problems: list[dict[str, Any]] = []  # contexts that the loop's exception handler got
        self.loop.set_exception_handler(lambda loop, context: self.problems.append(context))
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Awaitable[T]) -> T:
        async def wrapped() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(DEADLINE_S)

    def call(self, work: Callable[[], T]) -> T:
        """Run something in the loop's thread."""

        async def wrapped() -> T:
            return work()

        return self.run(wrapped())

    def eventually(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        """Poll a condition inside the loop's thread."""
        return eventually(lambda: self.call(condition), what)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        self.loop.close()


@dataclass
class Received:
    """A request as it reached an engine, byte for byte."""

    raw: bytes
    head: bytes
    body: bytes
    connection: int

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        pairs = [line.partition(b": ") for line in self.head.split(b"\r\n")[1:] if line]
        return [(name.lower(), value) for name, _, value in pairs]

    def get(self, name: bytes) -> list[bytes]:
        return [value for field, value in self.fields if field == name]


@dataclass
class Engine:
    """Plays one script for each request: `scripts` first, then `otherwise`. Everything a POST sent is in `received`."""

    world: World
    scripts: deque[Script] = field(default_factory=deque)
    otherwise: Script = (http_response(),)
    received: list[Received] = field(default_factory=list)
    surplus: list[bytes] = field(default_factory=list)  # bytes after a request; there must be none
    connections: int = 0
    open: int = 0
    gone: int = 0  # connections that the lane closed during a HOLD
    early: Script | None = None  # played once at the head of the next request, before its body is read
    url: str = ""

    def __post_init__(self) -> None:
        self._permits = asyncio.Semaphore(0)
        self._free = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**26)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    def release(self) -> None:
        """End one HOLD, now or when it comes."""
        self.world.call(self._permits.release)

    def free(self) -> None:
        """End every HOLD until the next plan."""
        self.world.call(self._free.set)

    def plan(self, *scripts: Script) -> None:
        """How to respond to the next requests; forgets those received so far."""

        def setup() -> None:
            self.scripts = deque(scripts)
            self.received, self.surplus = [], []
            self.gone = 0
            self.early = None
            self.otherwise = (http_response(),)
            self._permits = asyncio.Semaphore(0)
            self._free.clear()

        self.world.call(setup)

    def always(self, script: Script) -> None:
        """How to respond to requests after the planned ones, until the next plan."""

        def setup() -> None:
            self.otherwise = script

        self.world.call(setup)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, is_lane = 0, False
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /v1/models"):  # the prober
                    body = json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode()
                    writer.write(http_response(body, b"content-type: application/json"))
                    continue
                if head.startswith(b"POST /worker_get_status"):
                    status = {"model_names": [MODEL], "speed": 1, "queue_length": 0}
                    writer.write(http_response(json.dumps(status).encode(), b"content-type: application/json"))
                    continue
                if not is_lane:
                    is_lane = True
                    self.connections += 1
                    self.open += 1
                    number = self.connections
                if self.early is not None:
                    script, self.early = self.early, None
                else:
                    length = re.search(rb"\r\n(?i:content-length): (\d+)\r\n", head)
                    body = await reader.readexactly(int(length[1]) if length else 0)
                    self.received.append(Received(head + body, head, body, number))
                    script = self.scripts.popleft() if self.scripts else self.otherwise
                await self._play(script, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                self.surplus.append(error.partial)
        finally:
            if is_lane:
                self.open -= 1
            writer.close()

    async def _play(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for step in script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif step == HOLD:
                await self._hold(reader)
            elif step == RESET:
                reset(writer.get_extra_info("socket"))
                writer.transport.abort()
                raise ConnectionResetError
            else:
                raise ConnectionResetError  # closed in `finally`

    async def _hold(self, reader: asyncio.StreamReader) -> None:
        async def until_gone() -> None:
            try:
                data = await reader.read(1)
            except ConnectionError:
                data = b""
            if data:
                self.surplus.append(data)
            else:
                self.gone += 1

        watch = asyncio.ensure_future(until_gone())
        released = {asyncio.ensure_future(self._permits.acquire()), asyncio.ensure_future(self._free.wait())}
        done, pending = await asyncio.wait({watch, *released}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if watch in done:
            raise ConnectionResetError


class Tree:
    """Nodes one above the other, `nodes[0]` the root, and the engines below the last."""

    def __init__(
        self, world: World, engines: list[Engine], levels: int, kind: EngineKind, settings: dict[str, Any]
    ) -> None:
        self.world = world
        self.engines = engines
        self.engine = engines[0]
        self.kind = kind
        self.clock = SkewedClock()  # the root's
        self.nodes: list[Node] = []
        self.servers: list[Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        world.run(
            self._start(
                levels, Settings.model_validate({"report_interval_s": 1.0, "grace_s": 5.0, "hold_s": 0.0, **settings})
            )
        )
        self.wait_ready()

    async def _start(self, levels: int, settings: Settings) -> None:
        parents: tuple[str, ...] = ()
        for level in range(levels):
            is_last = level == levels - 1
            config = NodeConfig(
                name=f"n{level}",
                listen=(("127.0.0.1", 0),),
                advertise="http://127.0.0.1:0",
                parents=parents,
                engines=tuple(
                    EngineConfig(name=f"e{number}", kind=self.kind, url=engine.url)
                    for number, engine in enumerate(self.engines)
                )
                if is_last
                else (),
                settings=settings,
            )
            config, sockets = bind(config)
            node = Node(config, clock=self.clock, settle_s=0.0) if level == 0 else Node(config, settle_s=0.0)
            server = Server(node, build_app(node))
            self.nodes.append(node)
            self.servers.append(server)
            self._tasks.append(asyncio.ensure_future(server.serve(sockets)))
            parents = (config.advertise,)

    @property
    def root(self) -> Node:
        return self.nodes[0]

    @property
    def port(self) -> int:
        return self.root.config.listen[0][1]

    def wait_ready(self) -> None:
        """Until a request to the root could reach every engine."""

        def ready() -> bool:
            last = self.nodes[-1]
            now = last.lane.clock()
            return self.root.ready and sum(child.available(now) for child in last.registry) == len(self.engines)

        self.world.eventually(ready, "the tree to serve")

    def child(self, level: int = -1, number: int = 0) -> Child:
        return list(self.nodes[level].registry)[number]

    def leases(self) -> int:
        return sum(child.in_flight for node in self.nodes for child in node.registry)

    def wait_idle(self) -> None:
        """Until no node has an open lease."""
        self.world.eventually(lambda: self.leases() == 0, "all leases to be released")

    def connections(self, level: int = 0) -> list[Connection]:
        return list(self.nodes[level].clients)

    def protocols(self, level: int = 0) -> list[LaneProtocol]:
        """uvicorn's side of the connections."""
        found = self.servers[level].server_state.connections
        return [one for one in found if isinstance(one, LaneProtocol)]

    def exchanges(self, level: int = 0) -> list[Exchange]:
        """The newest request of each connection, where that is the lane's and not answered yet."""
        newest = [one.waiting[0] if one.waiting else one.running for one in self.connections(level)]
        return [one for one in newest if isinstance(one, Exchange) and not one.response.complete]

    def forward(self, seconds: float) -> None:
        """Put the root's clock forward and let it look at its deadlines."""

        def work() -> None:
            self.clock.skew += seconds
            self.root.lane.sweep()
            self.root.clients.sweep(self.root.lane.clock())

        self.world.call(work)

    def client(self, timeout_s: float = DEADLINE_S) -> Client:
        return Client(self.port, timeout_s)

    def request(self, *parts: bytes) -> ReceivedResponse:
        """Send raw bytes on a new connection and read one response."""
        with self.client() as client:
            client.send(*parts)
            return client.read_response()

    def request_playing(self, script: Script, request: bytes) -> ReceivedResponse:
        """The response to a request that the engine answers with `script`."""
        self.engine.plan(script)
        return self.request(request)

    def stop(self) -> None:
        for server in self.servers:
            server.should_exit = True
        self.world.run(asyncio.wait_for(asyncio.gather(*self._tasks), DEADLINE_S))


@contextlib.contextmanager
def tree(
    world: World, *, levels: int = 1, engines: int = 1, kind: EngineKind = "openai", **settings: Any
) -> Iterator[Tree]:
    """A running tree of real nodes. settings: of every node."""
    made = [world.call(lambda: Engine(world)) for _ in range(engines)]
    for engine in made:
        world.run(engine.start())
    running = Tree(world, made, levels, kind, settings)
    try:
        yield running
    finally:
        for engine in made:
            engine.free()
        running.stop()
        for engine in made:
            world.run(engine.stop())
