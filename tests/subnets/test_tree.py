"""A tree over isolated subnets: requests from the dmz to the deepest engine and back, and nobody who can dial down."""

from __future__ import annotations

import json

import pytest

from tests.subnets.network import SUBNETS, address
from tests.subnets.tree import ENGINE_PORT, ENGINES, ISOLATED, NODE_PORT, NODES, UP, Tree
from tests.support import eventually

PATHS = {"gpu-a": "site-a/gpu-a", "gpu-b": "site-b/gpu-b", "gpu-rack": "site-a/rack/gpu-rack"}


@pytest.mark.parametrize("model", ENGINES)
def test_a_request_from_the_dmz_and_its_answer(tree: Tree, model: str) -> None:
    asked = tree.ask("client", "root", model)
    assert asked.status == 200
    assert asked.head["headers"]["x-hierarchy-path"] == PATHS[model]
    answer = json.loads(asked.wait().body)
    assert answer["model"] == model
    assert answer["choices"][0]["message"]["content"]


def test_a_stream_from_the_deepest_engine_comes_as_it_is_written(tree: Tree) -> None:
    asked = tree.ask("client", "root", "gpu-rack", stream=True, max_tokens=10)
    assert asked.status == 200
    said = list(asked)
    assert len(said) >= 11
    assert said[-1]["line"] == "data: [DONE]"
    assert said[-1]["at"] - said[0]["at"] > 0.2  # the engine writes 25 tokens a second


def test_a_client_that_leaves_frees_the_deepest_engine(tree: Tree) -> None:
    def counted(what: str) -> int:
        return int(tree.get("gpu-rack", "gpu-rack", "/simulated")[what])

    before = counted("cancelled")
    asked = tree.ask("client", "root", "gpu-rack", stream=True, max_tokens=4000)
    assert "data: " in next(asked)["line"]
    assert counted("running") == 1
    tree.network.end(asked.process)
    tree.wait_for("gpu-rack", "gpu-rack", "/simulated", '"running":0')
    assert counted("cancelled") == before + 1


def test_the_tree_shows_who_dials(tree: Tree) -> None:
    """site-b left it to its parent to find out."""
    shown = tree.get("client", "root", "/tree")
    links = {node["name"]: node["link"] for node in shown["children"].values()}
    links |= {node["name"]: node["link"] for node in shown["children"]["site-a"]["children"].values()}
    assert {name: links[name] for name in ISOLATED} == dict.fromkeys(ISOLATED, "reverse")


def test_an_operator_in_the_dmz_drains_the_deepest_engine(tree: Tree) -> None:
    path = json.dumps({"path": PATHS["gpu-rack"]})
    assert tree.post("client", "root", "/admin/drain", path)["draining"] is True
    try:
        assert tree.get("client", "root", f"/admin/status?path={PATHS['gpu-rack']}")["state"] == "draining"
        eventually(lambda: tree.ask("client", "root", "gpu-rack").status == 503, "the root to hear of it")
    finally:
        tree.post("client", "root", "/admin/undrain", path)
    eventually(lambda: tree.ask("client", "root", "gpu-rack").status == 200, "the root to hear that it is over")


def test_what_was_dialled_is_what_the_file_says(tree: Tree) -> None:
    """Each open connection of a daemon was opened by the end that may open it."""
    subnet_of = {start: name for name, start in SUBNETS.items()}
    for node in NODES:
        for local, remote in tree.network.ports(node)["opened"]:
            ends = [subnet_of[end.rpartition(".")[0]] for end in (local, remote)]
            if ends[0] != ends[1]:
                (here, there) = ends
                assert ((there, here) if local.endswith(f":{NODE_PORT}") else (here, there)) in UP


def test_nothing_in_the_dmz_can_open_a_connection_into_a_site(tree: Tree) -> None:
    """Every address of each site at the ports of nodes and engines, and every port on which a machine there listens."""
    machines = [name for name in [*NODES, *ENGINES] if name != "root"]
    heard = {name: tree.network.ports(name)["listening"] for name in machines}
    assert all((ENGINE_PORT if name in ENGINES else NODE_PORT) in ports for name, ports in heard.items())
    targets = {f"{address(name)}:{port}" for name, ports in heard.items() for port in ports}
    for subnet in ("site-a", "site-b", "rack"):
        targets |= {f"{SUBNETS[subnet]}.{n}:{port}" for n in range(1, 255) for port in (NODE_PORT, ENGINE_PORT)}
    for verdicts in tree.network.dial({"client": targets, "root": targets}).values():
        assert set(verdicts.values()) <= {"silent", "no route"}
    assert tree.ask("client", "root", "gpu-rack").status == 200
    own = f"{address('site-a')}:{NODE_PORT}"
    assert tree.network.dial({"gpu-a": [own]}) == {"gpu-a": {own: "open"}}
