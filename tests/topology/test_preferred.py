"""`prefer` against the children that a file declares."""

from __future__ import annotations

from pathlib import Path

import pytest

from hierarchy.topology.declared import DeclaredTree
from hierarchy.topology.node_config import from_tree
from tests.trees import from_text, problems_of

TREE = """\
version: 1
nodes:
  root: {{listen: "localhost:1", prefer: {prefer}}}
  site-a: {{parent: root, listen: "localhost:2"}}
  again: {{parent: root, listen: "localhost:3", replica_of: site-a}}
  rack: {{parent: site-a, listen: "localhost:4"}}
  cloud: {{parent: root, listen: "localhost:5"}}
engines:
  gpu: {{parent: rack, kind: vllm, url: "http://localhost:6"}}
  own: {{parent: [root, cloud], kind: vllm, url: "http://localhost:7"}}
"""
LEAF = """\
version: 1
nodes:
  root: {{listen: "localhost:1", prefer: {prefer}}}
engines: {{}}
"""


def tree(folder: Path, prefer: str) -> DeclaredTree:
    return from_text(folder, TREE.format(prefer=prefer))


@pytest.mark.parametrize("prefer", ["[]", "[site-a, cloud]", "[[site-a, own], cloud]", "[cloud]"])
def test_children_can_be_preferred(tmp_path: Path, prefer: str) -> None:
    found = tree(tmp_path, prefer)
    assert (found.problems, found.notes) == ([], [])


def test_a_node_gets_its_tiers(tmp_path: Path) -> None:
    assert from_tree(tree(tmp_path, "[[site-a, own], cloud]"), "root").prefer == (("site-a", "own"), ("cloud",))
    assert from_tree(tree(tmp_path, "[cloud]"), "cloud").prefer == ()


@pytest.mark.parametrize(
    ("prefer", "problem"),
    [
        ("[rack]", '"rack" is not a child of "root"; choose one of site-a, cloud, own'),
        ("[gpu]", '"gpu" is not a child of "root"; choose one of site-a, cloud, own'),
        ("[root]", '"root" is not a child of "root"; choose one of site-a, cloud, own'),
        ("[again]", '"again" is a replica of "site-a", and all of them have that name above; write `site-a`'),
    ],
)
def test_what_is_elsewhere_in_the_tree_is_no_child(tmp_path: Path, prefer: str, problem: str) -> None:
    assert problems_of(from_text(tmp_path, TREE.format(prefer=prefer))) == [f"3: nodes.root.prefer: {problem}"]


def test_a_name_that_may_still_register_is_noted(tmp_path: Path) -> None:
    found = tree(tmp_path, "[sitea, cloud, 'http://w:21002']")
    assert found.problems == []
    (note,) = found.notes
    assert (note.line, note.field) == (3, "nodes.root.prefer")
    what = 'no child of "root" in this file is called "sitea"; that is right if it registers by itself'
    assert note.what == f'nodes.root.prefer: {what}; did you mean "site-a"?'


def test_a_file_without_children_of_a_node_knows_nothing_of_them(tmp_path: Path) -> None:
    assert from_text(tmp_path, LEAF.format(prefer="[site-a, cloud]")).notes == []
