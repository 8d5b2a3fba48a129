"""A running tree as a graph, its problems, and how it differs from the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.topology.drift import drift
from hierarchy.topology.live import live_graph, live_problems
from hierarchy.wire.tree_entry import decode
from tests.builders import nested
from tests.trees import from_text

CONFIG = """\
version: 1
nodes:
  root: {listen: "10.0.0.1:1"}
  a: {parent: root, listen: "10.0.0.2:1"}
  b: {parent: root, listen: ["10.0.0.3:1", "10.9.0.3:1"]}
engines:
  a1: {parent: a, kind: vllm, url: "http://10.0.0.11:8000", models: [m]}
  b1: {parent: b, kind: simulated, model: m}
"""


def entry(
    name: str, kind: str = "node", url: str = "", models: tuple[str, ...] = ("m",), **fields: Any
) -> dict[str, Any]:
    """An entry of `GET /tree`. fields: `below`, a list of its children, or other fields of the entry."""
    rows = [{"name": model, "api": "openai"} for model in models]
    below = {child["name"]: child for child in fields.pop("below", [])}
    instance = f"{name}-1" if kind == "node" else ""
    known = {"name": name, "kind": kind, "url": url or f"http://{name}:1", "state": "up", "instance": instance}
    return {**known, "models": rows, "speed": 1.0, "children": below, **fields}


def running(**changes: Any) -> dict[str, Any]:
    """The running tree of CONFIG. changes: name -> fields that differ."""

    def made(name: str, kind: str, url: str, below: list[dict[str, Any]]) -> dict[str, Any]:
        return entry(name, **{"kind": kind, "url": url, "below": below, **changes.get(name, {})})

    a1 = made("a1", "vllm", "http://10.0.0.11:8000", [])
    b1 = made("b1", "simulated", "http://127.0.0.1:4711", [])
    sites = [made("a", "node", "http://10.0.0.2:1", [a1]), made("b", "node", "http://10.9.0.3:1", [b1])]
    return made("root", "node", "http://10.0.0.1:1", sites)


def drifts(tmp_path: Path, tree: dict[str, Any]) -> list[str]:
    declared = from_text(tmp_path, CONFIG).graph
    return [f"{item.name}: {item.what}" for item in drift(declared, live_graph(decode(tree)))]


def problems(tree: dict[str, Any]) -> list[str]:
    return [f"{problem.field}: {problem.message}" for problem in live_problems(live_graph(decode(tree)), "http://x")]


def test_a_tree_that_runs_as_it_is_declared(tmp_path: Path) -> None:
    assert (drifts(tmp_path, running()), problems(running())) == ([], [])


A1 = entry("a1", "vllm", "http://10.0.0.11:8000")


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"a": {"below": []}}, ["a1: declared below a, but absent"]),
        ({"a1": {"state": "gone", "detail": "left 9 s ago"}}, ["a1: declared below a, but absent: left 9 s ago"]),
        ({"a1": {"state": "down", "detail": "refused"}}, ["a1: is down: refused"]),
        ({"a1": {"models": ("m", "n")}}, ["a1: also serves n, which is not declared"]),
        ({"a1": {"models": ("n",)}}, ["a1: serves n, declared with m"]),
        ({"b1": {"models": ()}}, ["b1: serves nothing, declared with m"]),
        ({"a1": {"kind": "sglang"}}, ["a1: is of kind sglang, declared as vllm"]),
        (
            {"a1": {"url": "http://10.0.0.12:8000"}},
            ["a1: is at http://10.0.0.12:8000, declared at http://10.0.0.11:8000"],
        ),
        ({"b": {"url": "http://10.0.0.3:1"}}, []),
        (
            {"b": {"url": "http://10.0.0.4:1"}},
            ["b: is at http://10.0.0.4:1, declared at http://10.0.0.3:1, http://10.9.0.3:1"],
        ),
        (
            {"b": {"below": [entry("b1", "simulated"), A1]}, "a": {"below": []}},
            ["a1: is below b, declared below a"],
        ),
        (
            {"b": {"below": [entry("b1", "simulated"), entry("b2", "vllm")]}},
            ["b2: present below b (vllm at http://b2:1), but not declared"],
        ),
        ({"b": {"below": [entry("b1", "simulated"), entry("b2", "vllm", state="gone")]}}, []),
    ],
)
def test_each_difference_from_the_file_is_reported(
    tmp_path: Path, changes: dict[str, Any], differences: list[str]
) -> None:
    assert drifts(tmp_path, running(**changes)) == differences


def test_a_node_below_the_root_is_compared_with_its_own_part(tmp_path: Path) -> None:
    part = running()["children"]["a"]
    assert drifts(tmp_path, part) == []
    assert drifts(tmp_path, {**part, "children": {}}) == ["a1: declared below a, but absent"]


def test_an_undeclared_node_at_the_top_differs_in_everything(tmp_path: Path) -> None:
    found = drifts(tmp_path, entry("x"))
    assert len(found) == 6
    assert found[0] == "root: declared, but absent"
    assert found[-1] == "x: present (node at http://x:1), but not declared"


def test_one_process_below_two_parents_is_one_member(tmp_path: Path) -> None:
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
