"""A tree over isolated subnets in which no node can dial downwards: requests from the dmz to the deepest engine."""

from __future__ import annotations

import json

import pytest

from tests.subnets.network import SUBNETS, address
from tests.subnets.tree import ENGINE_PORT, ENGINES, ISOLATED, NODE_PORT, NODES, UP, Tree
from tests.support import eventually

pytestmark = pytest.mark.slow

PATHS = {"gpu-a": "site-a/gpu-a", "gpu-b": "site-b/gpu-b", "gpu-rack": "site-a/rack/gpu-rack"}


@pytest.mark.parametrize("model", ENGINES)
def test_a_request_from_the_dmz_and_its_response(tree: Tree, model: str) -> None:
    response = tree.chat("client", "root", model)
    assert response.status == 200
    assert response.head["headers"]["x-hierarchy-path"] == PATHS[model]
    completion = json.loads(response.wait().body)
    assert completion["model"] == model
    assert completion["choices"][0]["message"]["content"]


def test_a_stream_from_the_deepest_engine_arrives_token_by_token(tree: Tree) -> None:
    response = tree.chat("client", "root", "gpu-rack", stream=True, max_tokens=10)
    assert response.status == 200
    lines = list(response)
    assert len(lines) >= 11
    assert lines[-1]["line"] == "data: [DONE]"
    assert lines[-1]["at"] - lines[0]["at"] > 0.2  # the engine generates 25 tokens per second


def test_a_client_that_disconnects_frees_the_deepest_engine(tree: Tree) -> None:
    def count(name: str) -> int:
        return int(tree.get("gpu-rack", "gpu-rack", "/simulated")[name])

    before = count("cancelled")
    response = tree.chat("client", "root", "gpu-rack", stream=True, max_tokens=4000)
    assert "data: " in next(response)["line"]
    assert count("running") == 1
    tree.network.end(response.process)
    tree.wait_for("gpu-rack", "gpu-rack", "/simulated", '"running":0')
    assert count("cancelled") == before + 1


def test_the_tree_shows_which_end_of_a_link_dials(tree: Tree) -> None:
    """Also for site-b, whose link is `auto`."""
    shown = tree.get("client", "root", "/tree")
    links = {node["name"]: node["link"] for node in shown["children"].values()}
    links |= {node["name"]: node["link"] for node in shown["children"]["site-a"]["children"].values()}
    assert {name: links[name] for name in ISOLATED} == dict.fromkeys(ISOLATED, "reverse")


def test_an_operator_in_the_dmz_drains_the_deepest_engine(tree: Tree) -> None:
    path = json.dumps({"path": PATHS["gpu-rack"], "force": True})
    assert tree.post("client", "root", "/admin/drain", path)["draining"] is True
    try:
        assert tree.get("client", "root", f"/admin/status?path={PATHS['gpu-rack']}")["state"] == "draining"
        eventually(lambda: tree.chat("client", "root", "gpu-rack").status == 503, "the drain to reach the root")
    finally:
        tree.post("client", "root", "/admin/undrain", path)
    eventually(lambda: tree.chat("client", "root", "gpu-rack").status == 200, "the end of the drain to reach the root")


def test_all_open_connections_were_allowed_by_reach(tree: Tree) -> None:
    """Each open connection of a daemon was opened by the end that may dial."""
    subnet_of = {start: name for name, start in SUBNETS.items()}
    for node in NODES:
        for local, remote in tree.network.ports(node)["opened"]:
            ends = [subnet_of[end.rpartition(".")[0]] for end in (local, remote)]
            if ends[0] != ends[1]:
                (own, other) = ends
                assert ((other, own) if local.endswith(f":{NODE_PORT}") else (own, other)) in UP


def test_nothing_in_the_dmz_can_open_a_connection_into_a_site(tree: Tree) -> None:
    """Dials all addresses of each site at the ports of nodes and engines, and all ports that a machine listens on."""
    machines = [name for name in [*NODES, *ENGINES] if name != "root"]
    listening = {name: tree.network.ports(name)["listening"] for name in machines}
    assert all((ENGINE_PORT if name in ENGINES else NODE_PORT) in ports for name, ports in listening.items())
    targets = {f"{address(name)}:{port}" for name, ports in listening.items() for port in ports}
    for subnet in ("site-a", "site-b", "rack"):
        targets |= {f"{SUBNETS[subnet]}.{n}:{port}" for n in range(1, 255) for port in (NODE_PORT, ENGINE_PORT)}
    for results in tree.network.dial({"client": targets, "root": targets}).values():
        assert set(results.values()) <= {"silent", "no route"}
    assert tree.chat("client", "root", "gpu-rack").status == 200
    own = f"{address('site-a')}:{NODE_PORT}"
    assert tree.network.dial({"gpu-a": [own]}) == {"gpu-a": {own: "open"}}
