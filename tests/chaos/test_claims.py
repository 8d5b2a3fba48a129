"""What children say, or stopped saying: lies, stale reports, and a wall clock that jumps."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import time
from collections import Counter
from heapq import heappop, heappush
from random import Random
from typing import Any

import httpx
import pytest

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.registry import Registry
from hierarchy.registry.child import Lease
from hierarchy.wire.messages import Identity
from tests.builders import OPENAI, Clock, heart_beat, model, registration, report, site
from tests.chaos.conftest import Figure
from tests.chaos.load import Load
from tests.chaos.test_engines import at
from tests.chaos.tree import Trees, wait_for
from tests.cluster import Cluster, chat, wait_for_model

PARENTS, CHILDREN, STALE_S, LOAD, SLOTS = 4, 32, 5.0, 0.8, 8


class Herd:
    """Four parents over the same 32 children, which serve `SLOTS` requests at once each; events in order of time."""

    def __init__(self, policy: str, seed: int) -> None:
        self.rng = Random(seed)
        self.clock = Clock()
        self.registries = [Registry(Identity(f"p{n}", f"http://p{n}", f"p{n}"), self.clock) for n in range(PARENTS)]
        self.dispatches = [Dispatch(registry, policy, Random(seed + n)) for n, registry in enumerate(self.registries)]
        self.running = [0] * CHILDREN
        self.waiting: list[list[tuple[int, Lease]]] = [[] for _ in range(CHILDREN)]
        self.received = [[0] * CHILDREN for _ in range(PARENTS)]
        self.served: Counter[int] = Counter()
        self.events: list[tuple[float, int, str, Any]] = []
        self.number = 0
        self.seq = 1
        for n in range(CHILDREN):
            for registry in self.registries:
                registry.register(registration(site(f"c{n}", model(), url=f"http://c{n}", interval_s=STALE_S)))
            for parent in range(PARENTS):
                self.at(self.rng.uniform(0, STALE_S), "report", (parent, n))
        self.at(0.0, "arrival", None)

    def at(self, delay_s: float, what: str, about: Any) -> None:
        self.number += 1
        heappush(self.events, (self.clock.now + delay_s, self.number, what, about))

    def run(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.events and self.events[0][0] < end:
            self.clock.now, _, what, about = heappop(self.events)
            getattr(self, what)(about)

    def arrival(self, _: None) -> None:
        """Poisson, at 80 % of what all children can do; a request takes a second on average."""
        self.at(self.rng.expovariate(LOAD * CHILDREN * SLOTS), "arrival", None)
        parent = self.rng.randrange(PARENTS)
        lease = self.dispatches[parent].lease(OPENAI)
        assert lease.share is not None
        child = int(lease.share.child.name[1:])
        self.received[parent][child] = lease.ordinal
        self.served[child] += 1
        if self.running[child] < SLOTS:
            self.begin(child, lease)
        else:
            self.waiting[child].append((parent, lease))

    def begin(self, child: int, lease: Lease) -> None:
        self.running[child] += 1
        self.at(self.rng.expovariate(1.0), "done", (child, lease))

    def done(self, about: tuple[int, Lease]) -> None:
        child, lease = about
        lease.release()
        self.running[child] -= 1
        if self.waiting[child]:
            self.begin(child, self.waiting[child].pop(0)[1])

    def report(self, about: tuple[int, int]) -> None:
        parent, child = about
        self.seq += 1
        queue = self.running[child] + len(self.waiting[child])
        fields = {"seq": self.seq, "seen": self.received[parent][child], "interval_s": STALE_S}
        self.registries[parent].heart_beat(
            heart_beat(report(f"c{child}", model(queue_length=queue), url=f"http://c{child}", **fields))
        )
        self.at(STALE_S, "report", (parent, child))


@pytest.mark.parametrize("policy", ["p2c", "shortest_queue"])
def test_stale_reports(policy: str, whole: bool, figure: Figure) -> None:
    """Load of each child over time, sampled every second, and how many requests each got."""
    if policy != "p2c" and not whole:
        pytest.skip("for comparison, with --whole")
    herd = Herd(policy, 7)
    herd.run(20.0)
    herd.served.clear()
    ratios = []
    for _ in range(120 if whole else 15):
        herd.run(1.0)
        loads = [running + len(waiting) for running, waiting in zip(herd.running, herd.waiting, strict=True)]
        ratios.append(max(loads) * CHILDREN / sum(loads))
    share = max(herd.served.values()) * CHILDREN / herd.served.total()
    momentary = sum(ratios) / len(ratios)
    figure(
        f"{policy}: the busiest child got {share:.2f} times the mean of requests; the highest load at any moment was "
        f"{momentary:.2f} times the mean",
        reach="1.3 with p2c",
    )
    if policy == "p2c":
        assert share <= 1.3


def lie(rng: random.Random) -> Any:
    """A value of any kind."""
    return rng.choice(
        [
            -1,
            0,
            1,
            1e300,
            -1e300,
            10**300,
            float("nan"),
            float("inf"),
            "x",
            "",
            None,
            [],
            {},
            True,
            [[]],
            3,
            0.5,
            "\ud800",
        ]
    )


def lying_report(rng: random.Random, url: str) -> bytes:
    rows = [{"name": rng.choice(["simulated", lie(rng)]), "api": "openai", "speed": lie(rng), "queue_length": lie(rng)}]
    message = report("liar", url=url, instance="liar-1", path=["liar-1"], seq=rng.randrange(10**6))
    message["models"] = rows if rng.random() < 0.8 else lie(rng)
    for field in rng.sample(sorted(message), rng.randrange(3)):
        message[field] = lie(rng)
    return json.dumps(message).encode()


def test_lying_child(bed: Trees, whole: bool, figure: Figure) -> None:
    """It may claim to be as fast as `max_speed` allows, and gets no more than that share."""
    honest, liar = bed.engines("e", 2)
    root = bed.node("root", engines=[honest], max_speed=3.0, dispatch="lottery")
    wait_for(root, 1)
    rng = random.Random(7)
    statuses: Counter[int] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", root.port, timeout=5.0)

    def tell(path: str, body: bytes) -> None:
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        statuses[answer.status] += 1

    boast = site("liar", model("simulated", 3.0), url=liar.url, instance="liar-1", path=["liar-1"])
    tell("/register_worker", json.dumps(boast).encode())
    for _ in range(100_000 if whole else 2000):
        tell("/receive_heart_beat", lying_report(rng, liar.url))
    tell("/register_worker", json.dumps({**boast, "seq": 10**7}).encode())
    load = Load(at(root), clients=4)
    asked = 400 if whole else 100
    until = time.monotonic() + 2.5  # it says nothing more, and is silent after three seconds
    asyncio.run(load.run(count=asked, until=lambda: time.monotonic() > until))
    share = sum(outcome.path.startswith("liar") for outcome in load.outcomes) / len(load.outcomes)
    figure(
        f"{statuses.total()} messages, answered {dict(statuses)}; {len(root.complaints())} exceptions; its share "
        f"{share:.0%}, where max_speed allows {3 / 4:.0%}",
        reach="0; that share",
    )
    assert set(statuses) <= {200, 400, 409, 422, 508}
    assert root.complaints() == []
    assert share <= 0.75 + 0.12
    assert load.failed == [], load.causes()


def test_wall_clock_moved_by_an_hour(monkeypatch: pytest.MonkeyPatch, figure: Figure) -> None:
    """Everything here goes by the monotonic clock: no child falls silent, no stream is cut, no time limit passes."""
    real = time.time
    with Cluster() as cluster:
        engine = cluster.engine(decode_tokens_per_s=20.0)
        root = cluster.node("root")
        cluster.node("site", parents=(root.url,), engines=(engine.url,))
        wait_for_model(root.url, "simulated")
        body = {"model": "simulated", "messages": [], "max_tokens": 20, "stream": True}
        cut = changed = 0
        for shift in (3600.0, -3600.0):
            with httpx.stream("POST", f"{root.url}/v1/chat/completions", json=body) as answer:
                parts = answer.iter_raw()
                first = next(parts)
                monkeypatch.setattr(time, "time", lambda shift=shift: real() + shift)
                cut += not (first + b"".join(parts)).endswith(b"[DONE]\n\n")
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                changed += chat(root.url).status_code != 200
        states = {child.state(root.node._clock()) for child in root.node.registry}
    figure(f"{cut} streams cut, {changed} requests failed, children {states}", reach="nothing changes")
    assert (cut, changed, states) == (0, 0, {"up"})
