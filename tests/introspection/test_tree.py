"""What a node shows of itself and of the tree below it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.introspection.tree import MODELS_AT_ONCE, TreeView, children_text_steps
from hierarchy.runtime.steps import Steps, at_once
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
    assert entries[WORKER].pop("label") == table.labels.of(WORKER)
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


def between(steps: Steps[Any], happen: Callable[[], None], events: list[Any]) -> Steps[Any]:
    """Let something happen after each step, as long as there are events."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        if events:
            happen()
        yield


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["come", "depart", "remove", "again"])), max_size=40))
def test_children_that_come_and_go_meanwhile_are_shown_as_they_are_at_the_end(events: list[tuple[int, str]]) -> None:
    table = Table()
    view = TreeView(table, table.clock)
    for number in range(5):
        table.add(site(f"site-{number}", children={"gpu": GPU}))

    def happen() -> None:
        number, event = events.pop()
        name = f"site-{number}"
        if event in ("depart", "again"):
            table.depart(name)
        if event in ("come", "again"):
            table.add(site(name, instance=f"{name}-{len(events)}", children={"gpu": GPU}))
        if event == "remove":
            table.remove(name)

    shown = at_once(between(view.children_steps(), happen, events))
    assert list(shown) == list(view.children())
    for name, entry in shown.items():
        state = "up" if name in table.children else "gone"
        assert (entry["state"], entry["children"]["gpu"]["state"]) == (state, state)
    assert json.loads(at_once(children_text_steps(shown))) == shown


def test_a_child_with_many_models_is_made_in_steps() -> None:
    table = Table()
    models = [model(f"m{number}") for number in range(3 * MODELS_AT_ONCE)]
    table.report(table.declare("gpu", "http://gpu:1", "vllm"), status_of(*models))
    steps = TreeView(table, table.clock).children_steps()
    assert sum(1 for _ in steps) >= 3
    assert len(TreeView(table, table.clock).children()["gpu"]["models"]) == 3 * MODELS_AT_ONCE


def test_what_is_below_a_child_that_left_is_made_once() -> None:
    """So that a report has nothing to compare."""
    table = Table()
    view = TreeView(table, table.clock)
    table.add(site(children={"gpu": GPU}))
    table.depart("site-a")
    below = view.children()["site-a"]["children"]
    view.forget()
    assert view.children()["site-a"]["children"] is below
    table.add(site(children={"gpu": GPU}))
    view.forget()
    assert view.children()["site-a"]["children"]["gpu"]["state"] == "up"
    assert not view._gone
