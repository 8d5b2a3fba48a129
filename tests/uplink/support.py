"""An uplink with a clock of the test's, below a real registry behind a transport that can fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from random import Random
from typing import Any

import httpx

from hierarchy.gossip import Board
from hierarchy.runtime.slices import Slices
from hierarchy.runtime.steps import Steps
from hierarchy.uplink.registration import Uplink
from hierarchy.wire.messages import Identity
from hierarchy.wire.offer import Offer
from hierarchy.wire.status import NodeStatus
from tests.builders import SITE, Table, heart_beat, model, registration, status_of
from tests.mock_transport import MockTransport

Answer = Callable[[str, dict[str, Any]], Any]


class Source:
    """What the uplink reports; the test changes it."""

    def __init__(self) -> None:
        self.now = status_of(model())
        self.leaving = False
        self.settling = False
        self.offers: list[Offer] = []
        self.below: dict[str, Any] = {"gpu": {"kind": "vllm", "state": "up"}}
        self.meanwhile: list[Callable[[], object]] = []  # happens while `below` is collected

    def status_steps(self) -> Steps[NodeStatus]:
        yield
        return self.now

    def status(self) -> NodeStatus:
        return self.now

    def path(self) -> list[str]:
        return ["site-a-1", "rack-1"]

    def children_steps(self) -> Steps[dict[str, Any]]:
        yield
        for action in self.meanwhile:
            action()
        return self.below

    def incomplete(self) -> bool:
        return self.settling

    def draining(self) -> bool:
        return self.leaving

    def warnings(self) -> list[str]:
        return []

    def labels(self) -> list[Offer]:
        return self.offers


class Bench:
    """One uplink, and its parent with a table of children. `heard` is (seconds since the start, path, message)."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self.table = Table()
        self.clock = self.table.clock
        self.source = Source()
        self.heard: list[tuple[float, str, dict[str, Any]]] = []
        self.slept: list[float] = []
        self.answer: Answer = self.as_node
        self.stretched_s = 0.0
        self.plan: list[tuple[float, Callable[[], Any]]] = []
        self.start = self.clock.now
        self.end = 0.0
        self.board = Board("site-a")
        self.shared: Any = None  # in the responses to reports
        self.http = httpx.AsyncClient(transport=MockTransport(self.handle))
        self.uplink = Uplink(
            "http://root:21001",
            Identity("site-a", SITE, "site-a-1", "1.0", "p2c"),
            self.source,
            self.http,
            interval_s,
            clock=self.clock,
            rng=Random(7),
            slices=Slices(),
            sleep=self.sleep,
            board=self.board,
        )

    # -- time --------------------------------------------------------------------------------------------------------

    def at(self, seconds: float, action: Callable[[], Any]) -> None:
        """Call `action` then; several at one time in their order."""
        self.plan.append((self.start + seconds - 1e-6, action))

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.tick(seconds)
        for action in [action for when, action in self.plan if when <= self.clock.now]:
            action()
        self.plan = [(when, action) for when, action in self.plan if when > self.clock.now]
        if self.clock.now >= self.end:
            raise asyncio.CancelledError

    def run(self, seconds: float) -> Bench:
        self.end = self.clock.now + seconds
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self.uplink.run())
        return self

    # -- the parent --------------------------------------------------------------------------------------------------

    async def handle(self, request: httpx.Request) -> httpx.Response:
        message = json.loads(request.content)
        self.heard.append((self.clock.now - self.start, request.url.path, message))
        answer = self.answer(request.url.path, message)
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, content=json.dumps(answer))

    def as_node(self, path: str, message: dict[str, Any]) -> Any:
        if path == "/register_worker":
            self.table.register(registration(message))
            interval_s = max(message["interval_s"], self.stretched_s)
            return {"node": "root", "instance": "root-1", "version": "1.0", "interval_s": interval_s}
        if path == "/receive_heart_beat":
            shared = {} if self.shared is None else {"shared": self.shared}
            return {"exist": self.table.heart_beat(heart_beat(message)), **shared}
        return {"exist": self.table.remove("site-a", message["instance"]) is not None}

    @staticmethod
    def as_fastchat(path: str, message: dict[str, Any]) -> Any:
        return {"exist": True} if path == "/receive_heart_beat" else None

    def count(self, path: str) -> int:
        return sum(heard == path for _, heard, _ in self.heard)

    @property
    def registrations(self) -> list[float]:
        return [when for when, path, _ in self.heard if path == "/register_worker"]

    @property
    def reports(self) -> list[float]:
        return [when for when, path, _ in self.heard if path == "/receive_heart_beat"]


def refuse(path: str, message: dict[str, Any]) -> Any:
    raise httpx.ConnectError("connection refused")


def load(queue_length: int) -> NodeStatus:
    return status_of(model(queue_length=queue_length))
