"""What a node shows of itself and of the tree below it."""

from __future__ import annotations

import json

from hierarchy.introspection.tree import TreeView
from hierarchy.wire.subtree import diff, merge
from tests.builders import OPENAI, WORKER, Table, model, report, site, status_of, worker

GPU = {"kind": "vllm", "state": "up", "models": [{"name": "m", "api": "openai"}]}
FIELDS = {
    "name", "kind", "url", "state", "detail", "instance", "version", "build", "dispatch",
    "speed", "queue_length", "in_flight", "models", "children",
}  # fmt: skip


def test_an_empty_node_shows_itself() -> None:
    table = Table()
    tree = TreeView(table, table.clock).tree()
    assert tree.keys() == FIELDS
    assert (tree["name"], tree["kind"], tree["state"], tree["url"]) == ("root", "node", "up", "http://root:21001")
    assert (tree["models"], tree["children"], tree["speed"]) == ([], {}, 0.0)


def test_the_tree_shows_every_child_with_its_state_and_load() -> None:
    table = Table()
    engine = table.declare("gpu", "http://gpu:1", "vllm")
    table.report(engine, status_of(model(speed=4, queue_length=2)))
    lease = engine.lease(engine.shares[OPENAI])
    down = table.declare("gpu-2", "http://gpu2:1", "vllm")
    table.mark_down(down, "connection refused")
    table.add(site(children={"rack-gpu": GPU}, version="1.2"))
    table.add(worker())
    table.clock.tick(3)
    tree = TreeView(table, table.clock).tree()
    assert (tree["speed"], tree["queue_length"], tree["in_flight"]) == (5.0, 3, 1)
    entries = tree["children"]
    assert all(entry.keys() == FIELDS | {"link"} and entry["name"] == name for name, entry in entries.items())
    states = {name: (entry["kind"], entry["state"], entry["detail"]) for name, entry in entries.items()}
    assert states == {
        "gpu": ("vllm", "up", ""),
        "gpu-2": ("vllm", "down", "connection refused"),
        "site-a": ("node", "silent", "no report for 3 s"),
        WORKER: ("fastchat", "up", ""),
    }
    assert entries["gpu"]["models"] == [{"name": "m", "api": "openai", "speed": 4.0, "queue_length": 3, "slots": 0}]
    assert (entries["gpu"]["queue_length"], entries["gpu"]["in_flight"]) == (3, 1)
    assert (entries["site-a"]["children"], entries["site-a"]["version"]) == ({"rack-gpu": GPU}, "1.2")
    json.dumps(tree, allow_nan=False)
    lease.release()


def test_nothing_in_a_subtree_is_null_so_merge_patches_can_carry_it() -> None:
    table = Table()
    view = TreeView(table, table.clock)
    table.declare("gpu", "http://gpu:1", "vllm")
    table.add({**worker(), "worker_status": None})
    table.add(site(children={"rack-gpu": GPU}))
    before = view.children()
    assert "null" not in json.dumps(before)
    table.clock.tick(3)
    table.receive(report(children={"rack-gpu": {"state": "down"}}))
    table.remove(WORKER)
    assert merge(before, diff(before, view.children())) == view.children()
