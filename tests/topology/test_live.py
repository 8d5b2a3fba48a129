"""A running tree as a graph, and its problems."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.topology.drift import drift
from hierarchy.topology.live import live_graph, live_problems
from hierarchy.wire.tree_entry import decode
from tests.builders import nested
from tests.topology.running import entry, running


def problems(tree: dict[str, Any]) -> list[str]:
    return [f"{problem.field}: {problem.message}" for problem in live_problems(live_graph(decode(tree)), "http://x")]


def test_a_tree_that_runs_as_declared_has_no_problems() -> None:
    assert problems(running()) == []


def test_one_process_below_two_parents_is_one_member() -> None:
    rack = entry("rack", below=[entry("gpu", "vllm")])
    tree = entry("root", below=[entry("a", below=[rack]), entry("b", below=[rack])])
    graph = live_graph(decode(tree))
    assert [parent.key for parent in graph.parents("rack")] == ["a", "b"]
    assert len(graph) == 5
    assert problems(tree) == []


def test_problems_that_a_single_registration_does_not_show() -> None:
    duplicate = entry("a", url="http://10.0.0.9:1", instance="other", below=[entry("x", "vllm")])
    assert problems(running(b={"below": [duplicate]})) == ["root/b/a: another process with this name is root/a"]
    loop = entry("b", url="http://10.9.0.3:1")
    assert problems(running(b={"below": [entry("c", below=[loop])]}))[0] == "root/b: a cycle: b -> c -> b"
    same = entry("z", "vllm", "http://10.0.0.11:8000")
    assert problems(running(b={"below": [same]})) == ['root/b/z: 10.0.0.11:8000 is already the address of engine "a1"']
    assert problems(running(b={"below": []})) == ["root/b: has no engine below it"]
    node_name = entry("a", "vllm", "http://10.0.0.77:1")
    assert problems(running(b={"below": [node_name]})) == ["root/b/a: a node has the same name"]


def test_engines_from_flags_may_share_names_and_reverse_links_may_share_addresses() -> None:
    gpus = [entry("vllm-1", "vllm", f"http://gpu{n}:1") for n in range(2)]
    assert problems(running(a={"below": gpus[:1]}, b={"below": gpus[1:]})) == []
    reverse = {"url": "http://127.0.0.1:21001", "link": "reverse"}
    assert problems(running(a=reverse, b=reverse)) == []


@given(nested(st.none() | st.booleans() | st.integers() | st.sampled_from(["node", "up", "a", "http://a:1"])))
def test_any_json_is_accepted(junk: Any) -> None:
    tree = {
        "name": "root",
        "kind": "node",
        "children": {"x": {"name": junk, "models": junk, "children": junk, "url": junk}},
    }
    declared = live_graph(decode(running()))
    graph = live_graph(decode(tree))
    live_problems(graph, "http://x")
    drift(declared, graph)


def test_a_part_of_a_large_graph_is_taken_in_one_pass() -> None:
    looked_up = 0

    class Key(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal looked_up
            looked_up += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    graph = live_graph(decode(entry("root", below=[entry(f"gpu-{n}", "vllm") for n in range(300)])))
    part = graph.only([Key(key) for key in graph.members])
    assert len(part) == 301
    assert looked_up < 1000
