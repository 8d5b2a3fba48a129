"""A loop in a thread, engines that play a script of bytes, trees of real nodes, and raw clients.

Tests are plain functions with blocking sockets; nodes and engines live on uvloop in a thread, as in production. What a
test looks at inside of them it looks at through `World.call`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httptools
import uvloop

from hierarchy.api import build_app
from hierarchy.child import Child
from hierarchy.config import EngineConfig, EngineKind, NodeConfig, Settings
from hierarchy.node import Node
from hierarchy.relay.exchange import Exchange
from hierarchy.relay.framing import Chunked
from hierarchy.relay.protocol import LaneProtocol
from hierarchy.server import Server, bind
from tests.support import DEADLINE_S, eventually

T = TypeVar("T")
MODEL = "m"
BODY = b'{"model":"m"}'
OK_BODY = b'{"ok":true}'

# Steps of a script beside bytes to write.
CLOSE = "close"  # FIN, after what was written
RESET = "reset"  # RST
HOLD = "hold"  # until the lane closes the connection, or `Engine.release`
Step = bytes | str
Script = Iterable[Step]


def answer(body: bytes = OK_BODY, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with a length."""
    lines = b"".join(line + b"\r\n" for line in fields)
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), lines, body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(text: str) -> bytes:
    return b"data: %b\n\n" % text.encode()


def post(body: bytes = BODY, *fields: bytes, path: bytes = b"/v1/chat/completions", version: bytes = b"1.1") -> bytes:
    """A request with a length."""
    return post_head(b"content-length: %d" % len(body), *fields, path=path, version=version) + body


def post_head(*fields: bytes, path: bytes = b"/v1/chat/completions", version: bytes = b"1.1") -> bytes:
    lines = b"".join(line + b"\r\n" for line in (b"host: lane", *fields))
    return b"POST %b HTTP/%b\r\n%b\r\n" % (path, version, lines)


class World:
    """The loop in a thread."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.problems: list[dict[str, Any]] = []  # what the loop's exception handler was told
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
    otherwise: Script = (answer(),)
    received: list[Received] = field(default_factory=list)
    surplus: list[bytes] = field(default_factory=list)  # bytes behind a request; there must be none
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
        """What to answer to the next requests; forgets what was received so far."""

        def setup() -> None:
            self.scripts = deque(scripts)
            self.received, self.surplus = [], []
            self.gone = 0
            self.early = None
            self.otherwise = (answer(),)
            self._permits = asyncio.Semaphore(0)
            self._free.clear()

        self.world.call(setup)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, is_lane = 0, False
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /v1/models"):  # the prober
                    body = json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode()
                    writer.write(answer(body, b"content-type: application/json"))
                    continue
                if head.startswith(b"POST /worker_get_status"):
                    status = {"model_names": [MODEL], "speed": 1, "queue_length": 0}
                    writer.write(answer(json.dumps(status).encode(), b"content-type: application/json"))
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


class Clock:
    """Monotonic seconds that a test can put forward."""

    def __init__(self) -> None:
        self.skew = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skew


class Tree:
    """Nodes one above the other, `nodes[0]` the root, and the engines below the last."""

    def __init__(
        self, world: World, engines: list[Engine], levels: int, kind: EngineKind, settings: dict[str, Any]
    ) -> None:
        self.world = world
        self.engines = engines
        self.engine = engines[0]
        self.kind = kind
        self.clock = Clock()  # the root's
        self.nodes: list[Node] = []
        self.servers: list[Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        world.run(self._start(levels, Settings.model_validate({"report_interval_s": 0.2, "grace_s": 5.0, **settings})))
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
            node = Node(config, clock=self.clock) if level == 0 else Node(config)
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

    def connections(self, level: int = 0) -> list[LaneProtocol]:
        return [one for one in self.nodes[level].connections if isinstance(one, LaneProtocol)]

    def exchanges(self, level: int = 0) -> list[Exchange]:
        """The newest request of each connection, where that is the lane's and not answered yet."""
        cycles = [one.cycle for one in self.connections(level)]
        return [cycle for cycle in cycles if isinstance(cycle, Exchange) and not cycle.response_complete]

    def forward(self, seconds: float) -> None:
        """Put the root's clock forward and let it look at its deadlines."""

        def work() -> None:
            self.clock.skew += seconds
            self.root.lane.sweep(self.root.connections)

        self.world.call(work)

    def client(self, timeout_s: float = DEADLINE_S) -> Client:
        return Client(self.port, timeout_s)

    def ask(self, *parts: bytes) -> Answer:
        """Send raw bytes on a new connection and read one answer."""
        with self.client() as client:
            client.send(*parts)
            return client.read_answer()

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


@dataclass
class Answer:
    """An answer as its client understood it. complete: its framing said so, and not the connection's end."""

    status: int = 0
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True

    def get(self, name: bytes) -> list[bytes]:
        return [value for field, value in self.fields if field == name]

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object."""
        assert self.get(b"content-type") == [b"application/json"], self
        found = json.loads(self.body)["error"]
        assert set(found) == {"message", "type", "param", "code"}, found
        return dict(found)


class Client:
    """A raw client. `read_answer` knows interim answers, lengths and chunks; `rest` reads until the end."""

    def __init__(self, port: int, timeout_s: float = DEADLINE_S, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(timeout_s)
        self.sock.connect(("127.0.0.1", port))
        self.buffer = b""
        self.interim: list[int] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.sock.sendall(part)

    def read(self) -> bytes:
        """The next bytes; empty at the end."""
        return self.sock.recv(65536)

    def read_until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`; what follows stays."""
        while mark not in self.buffer:
            data = self.read()
            assert data, f"the end came before {mark!r}: {self.buffer!r}"
            self.buffer += data
        found, _, rest = self.buffer.partition(mark)
        self.buffer = rest
        return found + mark

    def read_head(self) -> bytes:
        return self.read_until(b"\r\n\r\n")

    def read_answer(self, *, method: str = "POST") -> Answer:
        """One final answer, whole or not. Raises ConnectionResetError if it was reset."""
        while True:
            head = self.read_head()
            status = int(head.split(b" ", 2)[1])
            if status >= 200:
                break
            self.interim.append(status)
        found = Answer(status)
        parser = httptools.HttpResponseParser(found)
        parser.feed_data(head)
        if method == "HEAD" or status in (204, 304):
            found.complete = True
        length = found.get(b"content-length")
        chunked, framing = found.get(b"transfer-encoding") == [b"chunked"], Chunked()
        while not found.complete:
            data, self.buffer = self.buffer, b""
            if not data:
                data = self.read()
                if not data:
                    break
            if length and not chunked:
                wanted = int(length[0]) - len(found.body)
                self.buffer = data[wanted:]
                data = data[:wanted]
            elif chunked:
                size = framing.feed(data)
                data, self.buffer = data[:size], data[size:]
            parser.feed_data(data)
        return found

    def rest(self) -> bytes:
        """Everything up to the connection's end. Raises ConnectionResetError if it was reset."""
        parts = [self.buffer]
        while data := self.read():
            parts.append(data)
        self.buffer = b""
        return b"".join(parts)

    def is_closed(self) -> bool:
        """Read on: does the connection end here, with nothing more said?"""
        try:
            return not self.rest()
        except ConnectionResetError:
            return True

    def reset(self) -> None:
        reset(self.sock)
        self.sock.close()


def reset(sock: Any) -> None:
    """Make the next close an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class FakeTransport:
    """A transport that only remembers. unsent: what it claims to hold back."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unsent = 0
        self.state = "open"
        self.reading = True

    @property
    def output(self) -> bytes:
        return b"".join(self.written)

    def write(self, data: bytes) -> None:
        assert self.state != "half", "written behind write_eof"
        if self.state == "open":
            self.written.append(data)

    def write_eof(self) -> None:
        self.state = "half"

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str) -> Any:
        return None

    def is_closing(self) -> bool:
        return self.state in ("closed", "aborted")

    def close(self) -> None:
        if self.state != "aborted":
            self.state = "closed"

    def abort(self) -> None:
        self.state = "aborted"

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
