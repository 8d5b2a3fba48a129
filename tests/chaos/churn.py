"""Everything that has a name comes to one node, is used and goes, again and again, and always under a new name."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from hierarchy.security.keys import create_key, revoke_keys
from tests.builders import site, worker
from tests.chaos.processes import Process, Processes
from tests.support import free_port

REMEMBER_S = 4.0  # ten minutes, 144 times as fast: then ten minutes are a day
ENGINES = 6  # that are there at once
ANSWER = b'{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"x"}}]}'
EVENT = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


@dataclass
class Sample:
    """What a process holds at one moment."""

    rss: int  #: bytes
    series: int
    descriptors: int


@dataclass
class Engine:
    """An engine on a new port, with a model of a new name, in this process."""

    name: str
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in list(self.writers):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head.lower())
                body = await reader.readexactly(int(length[1]) if length else 0)
                await self._answer(head, body, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def _answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        if b'"stream": true' in body:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(40):
                writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
                await writer.drain()
                await asyncio.sleep(0.02)
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            return
        status, content = b"200 OK", ANSWER
        if head.startswith(b"GET /v1/models"):
            content = json.dumps({"object": "list", "data": [{"id": f"model-of-{self.name}"}]}).encode()
        elif head.startswith(b"GET"):
            status, content = b"404 Not Found", b"{}"
        writer.write(b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
            status, len(content), content,
        ))  # fmt: skip


class Churn:
    """A node, and what comes to it."""

    def __init__(self, processes: Processes, period_s: float) -> None:
        """period_s: from one run, in which one of each kind comes and one goes, to the next one."""
        self.folder: Path = processes.folder
        self.period_s = period_s
        self.port = free_port()
        self.keys = self.folder / "churn-keys.yaml"
        self.key = create_key(self.keys, "steady", None)
        self.client_key = self.key  # of the run before: the node has read it
        self.engines: list[Engine] = []
        self.config = self.folder / "churn.yaml"
        self.runs = self.requests = 0
        self.statuses: Counter[str] = Counter()  # of whole responses
        self.rng = random.Random(7)
        self._write()
        command = ["serve", str(self.config), "--node", "churn"]
        self.node: Process = processes.add("churn", command, self.port, is_forked=False)
        self.clients: set[asyncio.Task[None]] = set()

    def _write(self) -> None:
        settings = {"remember_s": REMEMBER_S, "report_interval_s": 0.2, "probe_interval_s": 0.2, "hold_s": 0.0,
                    "grace_s": 1.0, "security": {"api_keys": f"file:{self.keys}", "insecure": True}}  # fmt: skip
        lines = [
            f"version: 1\ndefaults: {json.dumps(settings)}\nnodes: {{churn: {{listen: '127.0.0.1:{self.port}'}}}}\n"
        ]
        lines += ["engines:\n"] + [
            f"  {engine.name}: {{parent: churn, kind: openai, url: '{engine.url}'}}\n" for engine in self.engines
        ]
        if not self.engines:
            lines.append(f"  none: {{parent: churn, kind: openai, url: 'http://127.0.0.1:{free_port()}'}}\n")
        self.config.write_text("".join(lines))

    def sample(self) -> Sample:
        """What the node holds now."""
        text = httpx.get(f"{self.node.url}/metrics", timeout=10.0).text
        series = sum(line[:1] not in ("#", "") for line in text.splitlines())
        return Sample(self.node.rss_bytes(), series, len(list(Path(f"/proc/{self.node.pid}/fd").iterdir())))

    async def run(self, seconds: float) -> list[Sample]:
        """Churn for so long. Returns a sample a second."""
        samples: list[Sample] = []
        began = time.monotonic()
        sampled_at = 0.0
        while (now := time.monotonic()) < began + seconds:
            await self._once(self.runs)
            self.runs += 1
            if now >= sampled_at + 1.0:
                sampled_at = now
                samples.append(await asyncio.to_thread(self.sample))
            # By the clock: what is there at once, and so what is counted, must not depend on other work on the machine.
            await asyncio.sleep(max(0.0, began + self.runs * self.period_s - time.monotonic()))
        await asyncio.gather(*self.clients)
        for engine in self.engines:
            await engine.stop()
        return samples

    async def _once(self, number: int) -> None:
        engine = Engine(f"engine-{number}")
        await engine.start()
        self.engines.append(engine)
        gone = self.engines.pop(0) if len(self.engines) > ENGINES else None
        key = await asyncio.to_thread(self._change_files, number)
        if gone is not None:
            await gone.stop()
        async with httpx.AsyncClient(base_url=self.node.url, timeout=10.0, trust_env=False) as http:
            await self._register(http, number)
        for kind in (self._whole, self._whole, self._leaves, self._slow):
            model = self.rng.choice(self.engines[:-2] or self.engines).name  # the last ones were not probed yet
            self._spawn(kind(f"model-of-{model}", number, self.key if number % 2 else self.client_key))
        self.client_key = key

    def _change_files(self, number: int) -> str:
        """A new engine and a new key; an old one of each goes."""
        self._write()
        key = create_key(self.keys, f"client-{number}", None)
        if number >= ENGINES:
            revoke_keys(self.keys, name=f"client-{number - ENGINES}")
        self.node.signal(signal.SIGHUP)
        return key

    async def _register(self, http: httpx.AsyncClient, number: int) -> None:
        """A node and a worker that nothing reports for any more, and a node that leaves."""
        port = 20_000 + number % 40_000
        for name in (f"silent-{number}", f"leaves-{number}"):
            fields = {"secret": "s" * 32, "interval_s": 0.2, "instance": f"{name}-1"}
            models = [{"name": f"model-of-{name}", "api": "openai", "speed": 1.0}]
            message = site(
                name, url=f"http://127.0.0.{2 + number % 200}:{port}", link="reverse", models=models, **fields
            )
            await http.post("/register_worker", json=message)
            if name.startswith("leaves"):
                leaving = {"worker_name": message["worker_name"], "instance": f"{name}-1", "node": name}
                await http.post("/deregister_worker", json=leaving, headers={"x-hierarchy-auth": "s" * 32})
        url = f"http://127.0.1.{2 + number % 200}:{port}"
        await http.post("/register_worker", json=worker(url, [f"model-of-worker-{number}"]))
        await http.post("/deregister_worker", json={"worker_name": url})

    def _spawn(self, work: Awaitable[None]) -> None:
        async def quietly() -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(10.0):
                    await work

        self.requests += 1
        task = asyncio.get_running_loop().create_task(quietly())
        self.clients.add(task)
        task.add_done_callback(self.clients.discard)

    @contextlib.contextmanager
    def _closing(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        try:
            yield
        finally:
            writer.close()

    async def _open(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client with an address of its own."""
        local = f"127.0.{3 + number // 250 % 200}.{1 + number % 250}"
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(local, 0))

    def _head(self, model: str, number: int, key: str, **fields: Any) -> tuple[bytes, bytes]:
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}], **fields}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nuser-agent: agent-{number}\r\n"
            f"authorization: Bearer {key}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode(), body

    async def _whole(self, model: str, number: int, key: str) -> None:
        """A client that waits for the whole response."""
        reader, writer = await self._open(number)
        with self._closing(writer):
            writer.write(b"".join(self._head(model, number, key)))
            self.statuses[(await reader.read(12))[9:].decode()] += 1

    async def _leaves(self, model: str, number: int, key: str) -> None:
        """A client that leaves in the middle of a stream."""
        reader, writer = await self._open(number)
        with self._closing(writer):
            writer.write(b"".join(self._head(model, number, key, stream=True)))
            await reader.read(200)

    async def _slow(self, model: str, number: int, key: str) -> None:
        """A client whose request takes a second, of a model that nothing serves in one case of four."""
        reader, writer = await self._open(number)
        head, body = self._head(model if number % 4 else f"unknown-{number}", number, key)
        with self._closing(writer):
            for part in (head, body[:5], body[5:]):
                writer.write(part)
                await asyncio.sleep(0.3)
            await reader.read()
