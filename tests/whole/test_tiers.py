"""A tree whose root prefers a site: requests spill over to the next one, come back, and leave a lost site at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from hierarchy.config.models import NodeConfig
from tests.cluster import CALM, Cluster, Running, wait_for_model
from tests.support import DEADLINE_S, eventually

SETTINGS = CALM.model_copy(update={"spill_after_s": 2.0, "dispatch": "prefix"})
BODY = {"model": "simulated", "messages": [{"role": "user", "content": "hello"}]}


class Tree:
    """A root that prefers the site `near` to the site `far`, with an engine of two slots each."""

    def __init__(self, cluster: Cluster) -> None:
        config = NodeConfig(
            name="root", listen=(("127.0.0.1", 0),), advertise="http://127.0.0.1:0", prefer=(("near",), ("far",)),
            settings=SETTINGS,
        )  # fmt: skip
        self.root = cluster.serve(config)
        self.engines = [cluster.engine(slots=2) for _ in range(2)]
        self.near, self.far = (
            cluster.node(name, parents=(self.root.url,), engines=(engine.url,), settings=SETTINGS)
            for name, engine in zip(("near", "far"), self.engines, strict=True)
        )
        wait_for_model(self.root.url, "simulated", 2)

    def served_by(self, count: int = 1) -> Counter[str]:
        """Which sites serve so many requests, one after the other."""
        found = Counter[str]()
        for _ in range(count):
            response = httpx.post(f"{self.root.url}/v1/chat/completions", json={**BODY, "max_tokens": 1})
            assert response.status_code == 200, response.text
            found[response.headers["x-hierarchy-path"].partition("/")[0]] += 1
        return found

    @contextmanager
    def streams(self, count: int) -> Iterator[list[str]]:
        """So many requests that last; yields the sites that have them."""
        with ExitStack() as stack:
            sites = []
            for _ in range(count):
                body = {**BODY, "max_tokens": 30_000, "ignore_eos": True, "stream": True}
                stream = httpx.stream("POST", f"{self.root.url}/v1/chat/completions", json=body, timeout=DEADLINE_S)
                response = stack.enter_context(stream)
                assert response.status_code == 200
                sites.append(response.headers["x-hierarchy-path"].partition("/")[0])
            yield sites


def test_requests_go_to_the_preferred_site_spill_over_return_and_leave_it_when_it_is_lost(cluster: Cluster) -> None:
    tree = Tree(cluster)
    with tree.streams(2) as sites:
        assert sites == ["near", "near"]  # its slots; one more would wait for seconds there
        assert tree.served_by(2) == {"far": 2}
        shown = {one["name"]: (one["tier"], one["chance"]) for one in route(tree.root)["candidates"]}
        assert shown == {"near": (1, 0), "far": (2, 1)}
    eventually(lambda: tree.served_by() == {"near": 1}, "requests to return")
    cluster.stop(tree.near)
    assert tree.served_by(2) == {"far": 2}


def route(root: Running) -> Any:
    return httpx.get(f"{root.url}/route", params={"model": "simulated"}).json()["levels"][0]
