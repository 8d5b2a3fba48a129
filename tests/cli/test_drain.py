"""`hierarchy drain` and `hierarchy undrain`, at a real node."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from hierarchy.cli.client import NodeClient
from hierarchy.cli.drain_wait import WaitError, Waiting, busy
from tests.cli.program import fails, program, succeeds
from tests.clocks import Clock
from tests.cluster import Cluster, Running, chat
from tests.mock_transport import MockTransport
from tests.support import eventually, free_port, running_app


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def root(cluster: Cluster) -> Running:
    root = cluster.node("root", engines=tuple(cluster.engine(models=("m", name)).url for name in ("a", "b")))
    eventually(lambda: {"a", "b"} <= set(root.node.registry.model_names()), "the engines")
    return root


@pytest.fixture(autouse=True)
def undrained(root: Running) -> Iterator[None]:
    yield
    for name in ("root-1", "root-2"):
        httpx.post(f"{root.url}/admin/undrain", json={"path": name})


def test_drain_and_undrain(root: Running) -> None:
    child = root.node.registry.children["root-1"]
    result = program("drain", "root-1", "--force", "--url", root.url, "--reason", "new GPU")
    undo = f"hierarchy undrain root-1 --url {root.url}"
    assert (result.status, result.stdout.strip()) == (0, f"root-1 gets no new requests; to undo: {undo}")
    assert result.stderr.splitlines() == [
        "warning: no available engine is left for a",
        "warning: the drain ends when root restarts: it has no `state_dir`, or cannot write to it",
    ]
    assert child.drain is not None
    assert (child.drain.by, child.drain.reason) == ("127.0.0.1", "new GPU")
    assert succeeds("undrain", "root-1", "--url", root.url) == "root-1 gets requests again"
    assert child.drain is None


def test_the_last_engine_of_a_model_needs_force(root: Running) -> None:
    message = fails("drain", "root-1", "--url", root.url, status=1)
    assert message == (
        f"{root.url}/admin/drain answered 409: to drain root-1 leaves no available engine for a below root; "
        "to drain it anyway, send `force: true` (--force)"
    )
    assert root.node.registry.children["root-1"].drain is None


def test_the_reason_is_shown_by_tree_and_why(root: Running) -> None:
    program("drain", "root-1", "--force", "--url", root.url, "--reason", "new GPU")
    for shown in (succeeds("tree", root.url), succeeds("why", "m", "--url", root.url)):
        assert re.search(r"by 127\.0\.0\.1 since 20\S+Z: new GPU", " ".join(shown.split()))


def test_the_list_shows_what_is_drained_in_the_whole_tree(cluster: Cluster, root: Running) -> None:
    top = cluster.node("top")
    site = cluster.node("site", parents=(top.url,), engines=(cluster.engine(models=("x",)).url,))
    eventually(lambda: "x" in top.node.registry.model_names(), "the site")
    assert succeeds("drain", "--list", "--url", top.url) == "nothing is drained below top"
    program("drain", "site/site-1", "--force", "--url", top.url, "--reason", "a b")
    eventually(lambda: "site/site-1" in succeeds("drain", "--list", "--url", top.url), "the report")
    table = succeeds("drain", "--list", "--url", top.url).splitlines()
    assert table[0].split() == ["path", "state", "since", "in", "flight", "by", "reason"]
    assert [table[1].split()[n] for n in (0, 1, 4, 5)] == ["site/site-1", "draining", "0", "127.0.0.1"]
    (row,) = json.loads(succeeds("drain", "--list", "--json", "--url", top.url))["drained"]
    assert (row["path"], row["by"], row["reason"], row["in_flight"]) == ("site/site-1", "127.0.0.1", "a b", 0)
    assert row["since"] == pytest.approx(time.time(), abs=60)
    cluster.stop(site)
    cluster.stop(top)


def test_wait_ends_when_nothing_is_in_flight(cluster: Cluster) -> None:
    engine = cluster.engine(decode_tokens_per_s=50.0)
    node = cluster.node("node", engines=(engine.url,))
    eventually(lambda: node.node.ready, "the engine")
    running = threading.Thread(target=chat, args=(node.url,), kwargs={"max_tokens": 100})
    running.start()
    child = node.node.registry.children["node-1"]
    eventually(lambda: child.in_flight, "the request")
    result = program("drain", "node-1", "--force", "--wait", "--url", node.url)
    assert (result.status, result.stdout.splitlines()[1]) == (0, "node-1: nothing is in flight")
    assert "node-1: 1 in flight" in result.stderr.splitlines()
    assert child.in_flight == 0
    running.join()


def test_wait_gives_up_in_time_and_says_what_is_in_flight(cluster: Cluster) -> None:
    engine = cluster.engine(decode_tokens_per_s=10.0)
    node = cluster.node("node", engines=(engine.url,))
    eventually(lambda: node.node.ready, "the engine")
    running = threading.Thread(target=chat, args=(node.url,), kwargs={"max_tokens": 40})
    running.start()
    eventually(lambda: node.node.registry.children["node-1"].in_flight, "the request")
    result = program("drain", "node-1", "--force", "--wait", "--timeout", 1, "--url", node.url)
    assert result.status == 1
    assert result.stderr.splitlines()[-1].startswith("hierarchy: node-1: 1 in flight after 1 s; it stays drained")
    running.join()


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ({"state": "draining", "in_flight": 0, "queue_length": 0}, ""),
        ({"state": "draining", "in_flight": 2, "queue_length": 3}, "3 in flight"),
        ({"state": "draining", "in_flight": 2, "queue_length": None}, "2 in flight"),
        ({"state": "down", "in_flight": 0, "queue_length": 3}, ""),
        ({"state": "gone", "in_flight": 0, "queue_length": 3}, ""),
        ({"state": "gone", "in_flight": 1, "queue_length": 3}, "1 in flight"),
        ({"state": "up"}, "not drained at all instances of the node above it"),
        ({"state": "draining", "failed": {"site~2": "no"}}, "no status from site~2"),
    ],
)
def test_what_keeps_a_child_from_being_idle(page: dict[str, Any], expected: str) -> None:
    assert busy(page) == expected


class Pages:
    """A node whose status changes from poll to poll; the last one stays."""

    def __init__(self, *pages: Any) -> None:
        self.clock = Clock()
        self.pages = list(pages)
        self.said: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        assert dict(request.url.params) == {"path": "site/gpu", "brief": "true"}
        page = self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]
        if isinstance(page, Exception):
            raise page
        return (
            httpx.Response(page.pop("status", 200), json=page) if "status" in page else httpx.Response(200, json=page)
        )

    def wait(self, timeout_s: float = 60) -> str:
        with NodeClient("http://node", transport=MockTransport(self.answer)) as node:
            return Waiting(
                node, "site/gpu", settle_s=2, timeout_s=timeout_s, say=self.said.append,
                clock=self.clock, sleep=self.clock.tick,
            ).run()  # fmt: skip


BUSY = {"state": "draining", "in_flight": 1}
IDLE = {"state": "draining", "in_flight": 0}


def test_it_waits_until_nothing_was_in_flight_for_the_time_in_which_all_instances_learn_of_it() -> None:
    pages = Pages(BUSY, IDLE, BUSY, IDLE)
    start = pages.clock()
    assert pages.wait() == "site/gpu: nothing is in flight"
    assert pages.clock() - start == 3.5


def test_progress_is_printed_when_it_changes_and_now_and_then() -> None:
    pages = Pages(BUSY)
    with pytest.raises(WaitError, match=r"^site/gpu: 1 in flight after 61 s; it stays drained$"):
        pages.wait(61)
    assert pages.said == ["site/gpu: 1 in flight"] * 3


def test_a_node_that_does_not_respond_is_asked_again() -> None:
    pages = Pages(httpx.ConnectError("refused"), {"status": 502, "error": {"message": "gone away"}}, IDLE)
    assert pages.wait() == "site/gpu: nothing is in flight"
    assert "cannot reach http://node: refused" in pages.said[0]


def test_a_child_that_is_not_known_any_more_has_nothing_in_flight() -> None:
    assert Pages({"status": 404, "error": {"message": "no child"}}).wait() == "site/gpu: nothing is in flight"


def test_path_and_list_exclude_each_other(root: Running) -> None:
    assert "leave PATH out" in fails("drain", "a", "--list", "--url", root.url, status=2)


def test_a_refusal_is_one_line_and_status_1_and_an_unreachable_node_status_2(root: Running) -> None:
    dead = f"http://127.0.0.1:{free_port()}"

    async def other(scope: object, receive: object, send: Callable[..., Any]) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>"})

    with running_app(other) as elsewhere:
        for url, status, message in (
            (root.url, 1, "answered 404: no child 'x' at root; children here: root-1, root-2"),
            (elsewhere, 1, "is this a node's URL?"),
            (dead, 2, "cannot reach"),
        ):
            assert message in fails("drain", "x", "--url", url, status=status)
