"""A node forgets: whatever came and went, the same is left in its memory as after the first time.

Everything that has a name or an address comes with a new one, is used, and goes. Then the clock moves by more than
`remember_s`, and the sizes of all collections that the node can reach must be what they were. What grows is named by
its path.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from hierarchy.config.model_names import Target
from hierarchy.config.models import EngineConfig, NodeConfig, Settings
from hierarchy.security.access import Access
from hierarchy.security.keys import create_key, revoke_keys
from tests.builders import site, worker
from tests.clocks import SkewedClock
from tests.cluster import Cluster
from tests.object_graph import grown, sizes, unbounded_caches
from tests.security.keyed import Keys, bearer
from tests.support import DEADLINE_S, eventually, free_port

T = TypeVar("T")
REMEMBER_S = 60.0
DAYS_S = 40 * 86400.0  # longer than any record of something that has ended is kept
RUNS = 3
ENDING = ("status of", "deregistration from")  #: tasks that end by themselves
CHANGING = ("._coro", ".cr_await", "node.watch", "server.config", "server.servers")  #: now here, now there; the web app


class Churn:
    """A root with keys, and everything that comes to it and goes."""

    def __init__(self, cluster: Cluster, keys: Keys) -> None:
        self.cluster = cluster
        self.keys = keys
        self.clock, self.wall = SkewedClock(), 0.0
        self.engine = cluster.engine(models=("m",))
        self.above = cluster.node("above")
        self.dead = free_port()
        security = keys.spec(tokenless_workers=True, allow=["127.0.0.0/8"], cleartext=True)
        fields = {"remember_s": REMEMBER_S, "report_interval_s": 0.2, "probe_interval_s": 0.1, "grace_s": 0.1}
        settings = Settings.model_validate({**fields, "hold_s": 0.0, "security": security})
        self.base = NodeConfig(
            name="root", listen=(("127.0.0.1", 0),), advertise="http://127.0.0.1:0", settings=settings, proxy="none"
        )
        access = Access(self.base, {}, self.now)
        self.root = cluster.serve(self.base, clock=self.clock, access=access)
        self.node = self.root.node
        self.node.board._now = self.node.drains._now = self.above.node.board._now = self.now
        access.resolver._clock = self.clock
        access.resolver._look = _look_up
        self.url = self.root.url

    def now(self) -> float:
        """Unix seconds."""
        return time.time() + self.wall

    def call(self, work: Callable[[], T]) -> T:
        """Run something in the node's loop."""

        async def wrapped() -> T:
            await asyncio.sleep(0)
            return work()

        result: T = self.cluster.call(wrapped())
        return result

    # -- one run: each kind comes, is used and goes ------------------------------------------------------------

    def run(self, number: int) -> None:
        self.configuration(number)
        self.nodes(number)
        self.real_nodes(number)
        self.workers(number)
        self.drains(number)
        self.clients(number)
        self.failures(number)
        self.cluster.call(self.node.apply(self.base))

    def post(self, path: str, body: object, key: str = "", **fields: Any) -> httpx.Response:
        headers = {**(bearer(key) if key else {}), **fields.pop("headers", {})}
        return httpx.post(self.url + path, json=body, headers=headers, timeout=DEADLINE_S, **fields)

    def chat(self, model: str, key: str = "", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        return self.post("/v1/chat/completions", body, key or self.keys.client, **fields)

    def configuration(self, number: int) -> None:
        """Reloads: engines, models, host names, parents with and without a proxy, aliases, replicas."""
        engines = [
            EngineConfig(
                name=f"engine-{number}-{host}", kind="simulated", url=f"http://{host}-{number}.test:{port}",
                models={f"model-{number}": "m"} if host == "up" else {},
            )
            for host, port in (("up", self.engine.port), ("down", self.dead))
        ]  # fmt: skip
        update = {
            "engines": tuple(engines),
            "parents": (f"http://above-{number}.test:{self.above.port}", f"http://dead-{number}.test:{self.dead}"),
            "aliases": {f"alias-{number}": (Target(model=f"model-{number}"),)},
            "replicas": (f"http://replica-{number}.test:{self.dead}",),
            "children": (f"child-{number}",),
        }
        config = self.base.model_copy(update=update)
        self.cluster.call(self.node.apply(config))
        registry = self.node.registry
        eventually(lambda: f"model-{number}" in registry.model_names(), "the engine to be up")
        eventually(lambda: any(uplink.registered for uplink in self.node.uplinks), "the parent to accept")
        assert self.chat(f"alias-{number}").status_code == 200
        proxied = {"parents": (f"http://proxied-{number}.test:1",), "proxy": f"http://proxy-{number}.test:{self.dead}"}
        self.cluster.call(self.node.apply(config.model_copy(update=proxied)))

    def nodes(self, number: int) -> None:
        """Nodes that register and leave, fall silent, are replicated, or are revoked."""
        for name in (f"leaves-{number}", f"silent-{number}", f"group-{number}", "revoked"):
            secret = {"secret": f"s{number}" * 20, "interval_s": 20.0, "seq": 1}
            fields = {**secret, "instance": f"{name}-{number}", "replica": name.startswith("group")}
            url = f"http://{name}.test:{self.dead}"
            below = {f"rack-{number}": {"kind": "node", "name": f"rack-{number}", "children": {}}}
            models = [{"name": f"model-of-{name}", "api": "openai", "speed": 1.0}]
            link = "reverse" if name.startswith("group") else "direct"
            message = site(name, url=url, link=link, children=below, **{**fields, "models": models})
            token = self.keys.token(name) if not self.wall else self.token(name)
            assert self.post("/register_worker", message, token).status_code == 200
            shown = {"x-hierarchy-auth": secret["secret"]}
            beat = {**message, "seq": 2, "speed": 1.0, "queue_length": 0}
            assert self.post("/receive_heart_beat", beat, headers=shown).json()["exist"] is True
            if link == "direct":
                assert self.chat(f"model-of-{name}").status_code == 502
            if name.startswith("leaves"):
                leaving = {"worker_name": message["worker_name"], "instance": fields["instance"], "node": name}
                assert self.post("/deregister_worker", leaving, headers=shown).json() == {"exist": True}
        assert self.post("/admin/revoke", {"node": "revoked"}, self.keys.admin).json()["was_here"] is True

    def token(self, name: str) -> str:
        """A join token of the node's present time."""
        signer = self.node.access.registration_policy._signer
        assert signer is not None
        return signer.join_token(name, 60.0, None)

    def real_nodes(self, number: int) -> None:
        """A node that dials the links for its requests."""
        name = f"real-{number}"
        path = self.keys.folder / f"{name}.token"
        path.write_text(self.token(name))
        path.chmod(0o600)
        settings = self.keys.settings(join_token=f"file:{path}")
        engines = (self.engine.url,)
        one = self.cluster.node(name, parents=(self.url,), engines=engines, link="reverse", settings=settings)
        eventually(lambda: name in self.node.registry.children, "the node to register")
        eventually(lambda: self.node.registry.children[name].serves("m"), "its model")
        assert self.chat("m").status_code == 200
        self.cluster.stop(one)

    def workers(self, number: int) -> None:
        """FastChat's workers, which register without a token; one comes back with other models."""
        for models in ([f"old-{number}"], [f"new-{number}"]):
            message = worker(f"http://worker-{number}.test:{self.dead}", models)
            assert self.post("/register_worker", message).status_code == 200
        for path, body in (("/receive_heart_beat", {"worker_name": message["worker_name"], "queue_length": 1}),
                           ("/get_worker_address", {"model": f"new-{number}"}), ("/list_models", {})):  # fmt: skip
            assert self.post(path, body, self.keys.client).status_code == 200

    def drains(self, number: int) -> None:
        """A child that is drained, and undrained when it has gone."""
        for action in ("drain", "undrain"):
            body = {"path": f"silent-{number}", "reason": f"run {number}", "force": True}
            assert self.post(f"/admin/{action}", body, self.keys.admin).status_code == 200

    def clients(self, number: int) -> None:
        """New keys, addresses, heads and models; complete, cancelled, slow and refused requests."""
        key = create_key(self.keys.folder / "api.yaml", f"client-{number}", None)
        self.cluster.call(self.node._upkeep._client_keys())
        transport = httpx.HTTPTransport(local_address=f"127.0.0.{10 + number}")
        with httpx.Client(transport=transport, base_url=self.url, headers=bearer(key), timeout=DEADLINE_S) as client:
            for path in ("/v1/models", "/health", f"/nothing-{number}"):
                client.get(path, headers={"user-agent": f"agent-{number}"})
            for model in (f"model-{number}", f"unknown-{number}"):
                body = {"model": model, "messages": [], "max_tokens": 2}
                client.post("/v1/chat/completions", json=body, headers={"user-agent": f"agent-{number}"})
            endless = {"model": f"model-{number}", "messages": [], "max_tokens": 10_000, "stream": True}
            with client.stream("POST", "/v1/chat/completions", json=endless) as stream:
                next(stream.iter_bytes())
        with socket.create_connection(("127.0.0.1", self.root.port)) as slow:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
        for path in ("/tree", "/metrics", f"/route?model=model-{number}"):
            httpx.get(self.url + path, headers=bearer(self.keys.admin), timeout=DEADLINE_S)
        self.post("/v1/chat/completions", {"model": "m"}, f"hk-unknown-{number}")
        revoke_keys(self.keys.folder / "api.yaml", name=f"client-{number}")
        self.cluster.call(self.node._upkeep._client_keys())

    def failures(self, number: int) -> None:
        """Requests that fail, and steps and messages that go wrong."""
        for _ in range(4):
            assert self.chat(f"new-{number}").status_code >= 500
        self.call(partial(self.node._tasks.guard, lambda: 1 / 0, f"step {number}"))

    # -- afterwards --------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Much time passes."""
        self.wall += DAYS_S
        for _ in range(6):
            self.clock.skew += REMEMBER_S
            self.call(self.sweep)

    def sweep(self) -> None:
        for _ in range(3):
            self.node.sweeps.sweep_some_children()
        self.node.sweeps.sweep()

    def settled(self) -> Counter[str]:
        """The sizes when all has been forgotten, and what takes its time has ended."""
        last: Counter[str] = Counter()

        def is_steady() -> bool:
            nonlocal last
            self.forget()
            self.cluster.call(self.node._upkeep._save_models(at_once=True))
            if any(task.get_name().startswith(ENDING) for task in self.node._tasks):
                return False
            before, last = last, self.sizes()
            return last == before

        eventually(is_steady, "the node to come to rest")
        return last

    def sizes(self) -> Counter[str]:
        """Of all that the node keeps, and of what the modules keep."""

        def measure() -> Counter[str]:
            gc.collect()
            roots = {"node": self.node, "server": self.root.server, **dict(_globals())}
            found = sizes(roots, leaves=(Churn,))
            return Counter({path: size for path, size in found.items() if not any(one in path for one in CHANGING)})

        return self.call(measure)


def _look_up(host: str) -> list[str]:
    """Each name has an address of its own, on this machine; the engine and the node above are at 127.0.0.1."""
    number = zlib.crc32(host.encode())
    is_served = host.startswith(("up-", "above-"))
    return ["127.0.0.1" if is_served else f"127.{1 + number % 200}.{number // 200 % 250}.{number // 50_000 % 250}"]


def _globals() -> Iterator[tuple[str, object]]:
    """The collections at the top of this project's modules."""
    for name, module in list(sys.modules.items()):
        if name.startswith("hierarchy."):
            for attribute, value in list(vars(module).items()):
                if isinstance(value, dict | list | set) and not attribute.startswith("__"):
                    yield f"{name}.{attribute}", value


@pytest.fixture
def churn(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Churn:
    for name in ("RETRY_S", "INTERVAL_S", "LATE_INTERVAL_S"):
        monkeypatch.setattr(f"hierarchy.engines.manager.WORKER_STATUS_{name}", 0.05)
    return Churn(cluster, Keys(tmp_path))


def test_what_came_and_went_leaves_nothing(churn: Churn) -> None:
    churn.run(0)
    before = churn.settled()
    for number in range(1, 1 + RUNS):
        churn.run(number)
    assert grown(before, churn.sizes()), "the runs do nothing"

    lines = grown(before, churn.settled())
    assert not lines, "\n".join(["the node keeps what came and went:", *lines])


def test_no_function_keeps_results_without_a_bound() -> None:
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("hierarchy.")]
    assert unbounded_caches(modules) == ["hierarchy.wire.large._shallow"]  # of classes, which are few
