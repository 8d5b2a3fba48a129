"""The tree of a configuration: its graph, who may dial whom, and problems of random trees."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import UsageError
from tests.trees import CONFIGS, from_data, from_text, load_tree, problems_of, valid_trees

SITES = """\
version: 1
subnets: {dmz: 10.0.0.0/24, lab: 10.1.0.0/24}
reach: [[lab, dmz], [dmz, lab]]
defaults: {dispatch: p2c, grace_s: 5}
nodes:
  root: {listen: ["localhost:21001", "10.0.0.10:21001"]}
  lab:
    parent: root
    listen: "0.0.0.0:21001"
    advertise: "http://10.1.0.1:21001/"
    dispatch: lottery
  rack: {parent: lab, listen: ["10.9.0.5:21001", "10.1.0.5:21001"]}
engines:
  own: {parent: root, kind: simulated, model: m, simulated: {slots: 2}}
  gpu: {parent: rack, kind: vllm, url: "http://10.1.0.11:8000", speed: 4}
"""


def test_the_graph_has_an_edge_from_every_parent_to_its_children(tmp_path: Path) -> None:
    graph = from_text(tmp_path, SITES).graph
    assert {(parent.key, child.key) for parent, child in graph.edges} == {
        ("root", "lab"),
        ("lab", "rack"),
        ("root", "own"),
        ("rack", "gpu"),
    }
    assert {key: member.kind for key, member in graph.members.items()} == {
        "root": "node",
        "lab": "node",
        "rack": "node",
        "own": "simulated",
        "gpu": "vllm",
    }
    assert graph.members["lab"].urls_for_parent == ("http://10.1.0.1:21001",)
    assert graph.members["rack"].urls_for_parent == ("http://10.9.0.5:21001", "http://10.1.0.5:21001")
    assert graph.depth == 3


def test_a_node_and_an_engine_with_one_name_are_both_in_the_graph() -> None:
    tree = from_data({"nodes": {"a": {}}, "engines": {"a": {"parent": "a", "kind": "simulated"}}})
    assert set(tree.graph.digraph.edges) == {("a", "a (engine)")}
    assert problems_of(tree) == ["1: engines.a: a node has the same name; rename one of them"]


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        ("root", "lab", True),
        ("gpu", "root", True),  # an engine's machine is in a subnet like any other
        ("rack", "root", True),  # by its address in the lab
        ("root", "own", None),  # started by its node: it has no address yet
    ],
)
def test_may_dial_follows_subnets_and_reach(tmp_path: Path, source: str, target: str, verdict: bool | None) -> None:
    assert from_text(tmp_path, SITES).may_dial(source, target) is verdict


def test_may_dial_is_not_symmetric(tmp_path: Path) -> None:
    text = SITES.replace("[[lab, dmz], [dmz, lab]]", "[[lab, dmz]]").replace(
        '"10.9.0.5:21001", "10.1.0.5:21001"', "far:1"
    )
    tree = from_text(tmp_path, text.replace('"http://10.1.0.11:8000"', '"http://10.0.0.20:8000"'))
    assert tree.may_dial("lab", "gpu") is True
    assert tree.may_dial("gpu", "lab") is False
    assert tree.may_dial("rack", "gpu") is None


def test_may_dial_of_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'no node or engine "gpus"; did you mean "gpu"\?'):
        from_text(tmp_path, SITES).may_dial("root", "gpus")


def test_an_unknown_parent_is_not_in_the_graph() -> None:
    assert from_data({"nodes": {"a": {"parent": "ghost"}}}).graph.members.keys() == {"a"}


def test_the_examples_do_not_share_ports() -> None:
    local = ("demo.yaml", "two-tiers.yaml", "three-tiers.yaml")
    ports = [
        address for name in local for node in load_tree(CONFIGS / name).config.nodes.values() for address in node.listen
    ]
    assert len(set(ports)) == len(ports)


def break_tree(data: st.DataObject, tree: dict[str, Any], fault: str) -> str:
    """Put one fault into a valid tree; returns a pattern of the problem that must be found."""
    nodes, engines = tree["nodes"], tree["engines"]
    others = [name for name in nodes if name != "n0"]
    victim: str = data.draw(st.sampled_from(others))
    match fault:
        case "cycle":
            below = [victim, *_descendants(nodes, victim)]
            nodes[victim]["parent"] = data.draw(st.sampled_from(below))
            return r"a cycle: .*\b" + victim
        case "second root":
            del nodes[victim]["parent"]
            return r'second root beside "n'
        case "unknown parent":
            nodes[victim]["parent"] = "ghost"
            return rf'nodes\.{victim}\.parent: unknown parent "ghost"'
        case "parent is an engine":
            nodes[victim]["parent"] = next(iter(engines))
            return rf'nodes\.{victim}\.parent: parent "e0" is an engine'
        case "one port twice":
            other = data.draw(st.sampled_from([name for name in nodes if name != victim]))
            nodes[victim]["listen"] = nodes[other]["listen"].replace("localhost", "127.0.0.1")
            return rf"nodes\.({victim}|{other})\.listen: localhost:\d+ is already the address of node"
        case "one name twice":
            engines[victim] = {"parent": "n0", "kind": "simulated"}
            return rf"engines\.{victim}: a node has the same name"
    nodes["idle"] = {"parent": victim, "listen": "localhost:19999"}
    return r"nodes\.idle: has no engine below it"


def _descendants(nodes: dict[str, dict[str, Any]], name: str) -> list[str]:
    children = [child for child, node in nodes.items() if node.get("parent") == name]
    return [*children, *(below for child in children for below in _descendants(nodes, child))]


FAULTS = ["cycle", "second root", "unknown parent", "parent is an engine", "one port twice", "one name twice", "idle"]


@pytest.mark.parametrize("fault", FAULTS)
@given(data=st.data())
def test_one_fault_in_any_tree_is_found(fault: str, data: st.DataObject) -> None:
    tree = data.draw(valid_trees())
    pattern = break_tree(data, tree, fault)
    problems = problems_of(from_data(tree))
    found = [problem for problem in problems if re.search(pattern, problem)]
    # the victim may have been the only child of its former parent
    rest = [problem for problem in problems if problem not in found and "has no engine below it" not in problem]
    assert (len(found), rest) == (1, []), problems
