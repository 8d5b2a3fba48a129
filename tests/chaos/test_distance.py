"""A site that is far away: how much of the load it gets, by policy, and how soon the first byte comes."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from typing import Any

import httpx
import pytest

from hierarchy.config.models import NodeConfig
from tests.chaos.conftest import Record
from tests.cluster import CALM, Cluster, Running, wait_for_model
from tests.relay.delay import Delay
from tests.support import eventually

WAY_S = 0.05  # each way between the root and the site `far`
#: name of a case -> policy and tiers of the root
CASES: dict[str, dict[str, Any]] = {
    "shortest_queue": {"dispatch": "shortest_queue"},
    "prefix": {"dispatch": "prefix"},
    "prefer near, 0.5 s": {"dispatch": "shortest_queue", "prefer": (("near",),), "spill_after_s": 0.5},
}


def build(cluster: Cluster, case: dict[str, Any]) -> tuple[Running, Delay]:
    """A root and two sites, each with two engines of four slots; one site behind a delay."""
    prefer = case.get("prefer", ())
    chosen = {field: value for field, value in case.items() if field != "prefer"}
    settings = CALM.model_copy(update={"report_interval_s": 0.5, **chosen})
    config = NodeConfig(
        name="root", listen=(("127.0.0.1", 0),), advertise="http://127.0.0.1:0", prefer=prefer, settings=settings
    )
    root = cluster.serve(config)
    delay = Delay(cluster, root.port, WAY_S)
    delay.__enter__()
    for name, url, link in (("near", root.url, "direct"), ("far", delay.url, "reverse")):
        engines = tuple(
            cluster.engine(slots=4, decode_tokens_per_s=100.0, prefill_tokens_per_s=8000.0).url for _ in range(2)
        )
        cluster.node(name, parents=(url,), engines=engines, settings=settings, link=link)  # type: ignore[arg-type]
    wait_for_model(root.url, "simulated", 4)
    eventually(lambda: all(child.round_trip.is_known for child in root.node.registry), "round trips")
    return root, delay


async def load(url: str, clients: int, requests: int) -> tuple[Counter[str], list[float]]:
    """So many clients, each of which sends so many requests, one after the other. Returns sites and first bytes."""
    sites, first = Counter[str](), list[float]()
    loop = asyncio.get_running_loop()
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=60, limits=limits) as http:

        async def client(number: int) -> None:
            for turn in range(requests):
                text = f"client {number}, question {turn}. " * 40
                body = {"model": "simulated", "messages": [{"role": "user", "content": text}], "stream": True}
                body |= {"max_tokens": 20, "ignore_eos": True}
                began_at = loop.time()
                async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
                    assert response.status_code == 200
                    sites[response.headers["x-hierarchy-path"].partition("/")[0]] += 1
                    pieces = response.aiter_raw()
                    await anext(pieces)
                    first.append(loop.time() - began_at)
                    async for _ in pieces:
                        pass

        await asyncio.gather(*map(client, range(clients)))
    return sites, first


def test_a_site_behind_100_ms(full: bool, record: Record) -> None:
    if not full:
        pytest.skip("only with --full")
    for name in CASES:
        shown = []
        for clients in (1, 4, 8, 16, 32):
            with Cluster() as cluster:
                root, delay = build(cluster, CASES[name])
                sites, first = asyncio.run(load(root.url, clients, 20))
                far = root.node.registry.children["far"].round_trip
                delay.__exit__()
            assert far.seconds > 1.9 * WAY_S  # a loop's timers may fire a little early
            part, mean = sites["far"] / sites.total(), 1000 * statistics.mean(first)
            shown.append(f"{clients} clients: {part:.0%} far, first byte {mean:.0f} ms")
        record(f"{name}: {'; '.join(shown)}")
