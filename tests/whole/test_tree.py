"""Trees of several levels: reports, requests, and registrations that are refused."""

from __future__ import annotations

from functools import partial

import httpx
import pytest

from hierarchy.config.models import Settings
from hierarchy.release import VERSION, build, data_path
from tests.cluster import QUICK, Cluster, Running, chat, models_at, wait_for_model
from tests.support import eventually


def test_a_chain_of_six_levels_serves_requests_and_names_the_path(cluster: Cluster) -> None:
    engine = cluster.engine(models=("m",))
    root = above = cluster.node("n1")
    for level in range(2, 7):
        above = cluster.node(f"n{level}", parents=(above.url,), engines=(engine.url,) if level == 6 else ())
    wait_for_model(root.url, "m")
    assert models_at(root.url) == {"m": ["n2/n3/n4/n5/n6/n6-1"]}
    response = chat(root.url, "m")
    assert response.status_code == 200
    assert response.headers["x-hierarchy-path"] == "n2/n3/n4/n5/n6/n6-1"
    assert response.json()["choices"][0]["message"]["content"]


def test_speed_and_queue_are_summed_per_model_and_in_total(cluster: Cluster) -> None:
    one, two = cluster.engine(models=("a",)), cluster.engine(models=("a", "b"))
    root = cluster.node("root")
    cluster.node("x", parents=(root.url,), engines=(one.url,))
    cluster.node("y", parents=(root.url,), engines=(two.url,))
    wait_for_model(root.url, "a", 2)
    status = httpx.post(f"{root.url}/worker_get_status").json()
    assert status == {"model_names": ["a", "b"], "speed": 2.0, "queue_length": 0}
    tree = httpx.get(f"{root.url}/tree").json()
    assert {m["name"]: m["speed"] for m in tree["models"] if m["api"] == "openai"} == {"a": 2.0, "b": 1.0}


def test_every_node_shows_which_build_it_runs(cluster: Cluster) -> None:
    root = cluster.node("root")
    engine = cluster.engine(models=("m",))
    cluster.node("rack", parents=(cluster.node("site", parents=(root.url,)).url,), engines=(engine.url,))
    wait_for_model(root.url, "m")
    tree = httpx.get(f"{root.url}/tree").json()
    site = tree["children"]["site"]
    (leaf,) = site["children"]["rack"]["children"].values()
    assert [entry["build"] for entry in (tree, site, site["children"]["rack"], leaf)] == [*[build()] * 3, ""]
    metrics = httpx.get(f"{root.url}/metrics").text
    assert f'hierarchy_build_info{{build="{build()}",data_path="{data_path()}",version="{VERSION}"}} 1.0' in metrics
    assert httpx.get(f"{root.url}/health").json()["build"] == build()


def test_queues_are_pushed_up_while_requests_run(cluster: Cluster) -> None:
    engine = cluster.engine(slots=2, decode_tokens_per_s=1.0)
    root = cluster.node("root")
    cluster.node("site", parents=(root.url,), engines=(engine.url,))
    wait_for_model(root.url, "simulated")
    body = {"model": "simulated", "prompt": "x", "max_tokens": 1000, "stream": True}
    with httpx.Client() as client, client.stream("POST", f"{root.url}/v1/completions", json=body) as response:
        assert response.status_code == 200
        site = root.node.registry.children["site"]
        eventually(lambda: site.status.queue_length == 1, "the site's report of its queue")
        assert site.in_flight == 1
        assert site.total.value == 1  # both reported and leased, but counted once
    eventually(lambda: site.status.queue_length == 0 and site.total.value == 0, "the queue to empty")


def test_an_engine_that_appears_changes_its_model_and_disappears(cluster: Cluster) -> None:
    engine = cluster.engine(models=("old",))
    root = cluster.node("root")
    cluster.node("site", parents=(root.url,), engines=(engine.url, "http://127.0.0.1:9"))
    wait_for_model(root.url, "old")
    httpx.post(f"{engine.url}/simulated/models", json={"models": ["new"]}).raise_for_status()
    wait_for_model(root.url, "new")
    assert chat(root.url, "old").status_code == 503
    cluster.stop(engine)
    eventually(lambda: not models_at(root.url), "the model to disappear")
    gone = chat(root.url, "new")
    assert gone.status_code == 503  # a node below knows it, but it is down
    assert 1 <= int(gone.headers["retry-after"]) <= 30
    tree = httpx.get(f"{root.url}/tree").json()
    states = {name: entry["state"] for name, entry in tree["children"]["site"]["children"].items()}
    assert states == {"site-1": "down", "site-2": "down"}


def test_a_restarted_parent_gets_its_children_again(cluster: Cluster) -> None:
    engine = cluster.engine()
    root = cluster.node("root")
    site = cluster.node("site", parents=(root.url,), engines=(engine.url,))
    wait_for_model(root.url, "simulated")
    root.node.registry.remove("site")  # as after a restart
    wait_for_model(root.url, "simulated")
    assert chat(root.url).headers["x-hierarchy-path"] == "site/site-1"
    assert site.node.uplinks[0].registered


def has_status(node: Running, status: int) -> bool:
    """Whether a chat request to this node gets this status."""
    return chat(node.url).status_code == status


def test_a_node_that_deregisters_gets_no_requests_but_is_listed_as_gone(cluster: Cluster) -> None:
    engine = cluster.engine()
    root = cluster.node("root")
    middle = cluster.node("middle", parents=(root.url,))
    site = cluster.node("site", parents=(middle.url,), engines=(engine.url,))
    wait_for_model(root.url, "simulated")
    cluster.stop(site)
    assert "site" not in middle.node.registry.children
    entry = httpx.get(f"{middle.url}/tree").json()["children"]["site"]
    assert (entry["state"], entry["children"]["site-1"]["state"]) == ("gone", "gone")
    for node in (middle, root):
        eventually(partial(has_status, node, 503), "503: known, but not available")
    assert models_at(root.url) == {}
    cluster.node("site", parents=(middle.url,), engines=(engine.url,))
    wait_for_model(root.url, "simulated")
    assert httpx.get(f"{middle.url}/tree").json()["children"]["site"]["state"] == "up"


def test_a_node_that_is_configured_as_an_engine_is_down(cluster: Cluster) -> None:
    engine = cluster.engine()
    above = cluster.node("above", engines=(engine.url,))
    below = cluster.node("below", parents=(above.url,), engines=(above.url,), kind="openai")
    wait_for_model(above.url, "simulated")
    child = below.node.registry.children["below-1"]
    eventually(lambda: child.down, "the probe to detect the node")
    assert "is a node, not an engine" in str(child.down)
    assert models_at(above.url) == {"simulated": ["above-1"]}


def test_self_registration_is_refused(cluster: Cluster) -> None:
    node = cluster.node("me")
    response = httpx.post(
        f"{node.url}/register_worker",
        json={
            "worker_name": node.url,
            "check_heart_beat": True,
            "worker_status": {"model_names": [], "speed": 0, "queue_length": 0},
        },
    )
    assert response.status_code == 508
    assert "address of this node itself" in response.json()["error"]["message"]


def test_a_cycle_is_refused_and_the_tree_still_works(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    engine = cluster.engine()
    a = cluster.node("a")
    b = cluster.node("b", parents=(a.url,), engines=(engine.url,))
    wait_for_model(a.url, "simulated")
    cluster.node("c", parents=(b.url,))
    eventually(lambda: "c" in b.node.registry.children, "c below b")
    # Now a tries to register below c, which is below b, which is below a.
    eventually(lambda: len(a.node.registry.path()) == 3, "a to know its descendants")
    message = {
        "worker_name": "http://127.0.0.1:7",
        "node": "a",
        "instance": a.node.identity.instance,
        "path": a.node.registry.path(),
        "check_heart_beat": True,
    }
    c = b.node.registry.children["c"]
    response = httpx.post(f"{c.url}/register_worker", json=message)
    assert response.status_code == 508
    assert "below" in response.json()["error"]["message"]
    assert chat(a.url).status_code == 200


def test_a_taken_name_is_refused(cluster: Cluster) -> None:
    engine = cluster.engine()
    root = cluster.node("root")
    cluster.node("site", parents=(root.url,), engines=(engine.url,))
    eventually(lambda: "site" in root.node.registry.children, "the first")
    first = root.node.registry.children["site"].instance
    cluster.node("site", parents=(root.url,))
    again = httpx.post(
        f"{root.url}/register_worker",
        json={"worker_name": "http://127.0.0.1:7", "node": "site", "instance": "zz", "check_heart_beat": True},
    )
    assert again.status_code == 409
    assert root.node.registry.children["site"].instance == first


@pytest.mark.parametrize("policy", ["shortest_queue", "p2c", "lottery", "round_robin"])
def test_each_policy_uses_all_engines(cluster: Cluster, policy: str) -> None:
    engines = [cluster.engine() for _ in range(3)]
    settings = Settings(**{**QUICK.model_dump(), "dispatch": policy})
    root = cluster.node("root", engines=tuple(engine.url for engine in engines), settings=settings)
    wait_for_model(root.url, "simulated", 3)
    paths = {chat(root.url).headers["x-hierarchy-path"] for _ in range(40)}
    assert paths == {"root-1", "root-2", "root-3"}
