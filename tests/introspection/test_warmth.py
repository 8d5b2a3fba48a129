"""What `hierarchy why` says where some children would have to load the model first: as the policies choose."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.introspection.explain import explain
from hierarchy.introspection.tree import TreeView
from hierarchy.wire.status import NodeStatus
from hierarchy.wire.tree_entry import decode
from tests.builders import OPENAI, Table, model, status_of

LATER = "it would have to load the model first, which takes about 10 s"


def table(*loads: float, queues: tuple[int, ...] = (), policy: str = "shortest_queue") -> Table:
    """Engines e0, e1, ... with 4 slots, and how long each takes to load `m`."""
    made = Table()
    made.identity = msgspec.structs.replace(made.identity, dispatch=policy)
    for number, load_s in enumerate(loads):
        child = made.declare(f"e{number}", f"http://e{number}:1", "ollama")
        queue = queues[number] if queues else 0
        made.report(child, status_of(model(queue_length=queue, slots=4, load_s=load_s)))
    return made


def shown(made: Table) -> dict[str, Any]:
    route = explain(decode(TreeView(made, made.clock).tree()), "m", "openai")
    level: dict[str, Any] = msgspec.to_builtins(route)["levels"][0]
    return level


@pytest.mark.parametrize("policy", ["shortest_queue", "prefix"])
@pytest.mark.parametrize(
    ("loads", "queues", "candidates", "reasons"),
    [
        ((0, 10, 10), (0, 0, 0), {"e0"}, {"e1": LATER, "e2": LATER}),
        ((0, 10, 10), (3, 0, 0), {"e0"}, {"e1": LATER, "e2": LATER}),
        ((0, 10, 10), (30, 0, 0), {"e0", "e1", "e2"}, {}),
        ((0, 10, 10), (30, 0, 2), {"e0", "e2"}, {"e1": LATER}),  # e2 is loading it
        ((10, 10), (0, 1), {"e1"}, {"e0": LATER}),
        ((10, 10), (0, 0), {"e0", "e1"}, {}),
        (
            (0, 0, 10),
            (30, 1, 0),
            {"e1"},
            {"e0": "requests wait there for longer than another child takes to load the model", "e2": LATER},
        ),
    ],
)
def test_the_candidates_are_those_of_the_dispatch(
    policy: str, loads: tuple[float, ...], queues: tuple[int, ...], candidates: set[str], reasons: dict[str, str]
) -> None:
    made = table(*loads, queues=queues, policy=policy)
    level = shown(made)
    assert {one["name"] for one in level["candidates"]} == candidates
    assert {one["name"]: one["reason"] for one in level["passed_over"]} == reasons
    dispatch = Dispatch(made, policy, Random(3))
    likely = {one["name"] for one in level["candidates"] if one["chance"]}
    assert {dispatch.choose(OPENAI).child.name for _ in range(20)} <= likely


def test_an_engine_that_a_request_would_wake_up_is_a_candidate() -> None:
    made = table(0)
    made.report(made.children["e0"], NodeStatus((model(load_s=10.0),), 1.0, asleep=True, wakes=True))
    level = shown(made)
    assert [(one["name"], one["load_s"]) for one in level["candidates"]] == [("e0", 10.0)]
    made.wake_failed(made.children["e0"], "could not be woken up: no", 5.0)
    level = shown(made)
    assert level["candidates"] == []
    assert level["passed_over"][0]["reason"] == "asleep: could not be woken up: no"
