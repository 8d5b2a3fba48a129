"""The labels that a file declares, as each node of it gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hierarchy.labels import OTHER
from hierarchy.topology.node_config import from_tree
from hierarchy.topology.slice import as_yaml, slice_of
from tests.trees import from_text, problems_of, read_text

SITES = """\
version: 1
nodes:
  root: {listen: "localhost:1", labels: {trust: own}}
  site-a: {parent: root, listen: "localhost:2", labels: {region: eu}}
  rack: {parent: site-a, listen: "localhost:3"}
  cloud: {parent: root, listen: "localhost:4", labels: {trust: hired}}
  plain: {parent: root, listen: "localhost:5"}
engines:
  gpu: {parent: rack, kind: vllm, url: "http://localhost:11"}
  odd: {parent: rack, kind: vllm, url: "http://localhost:12", labels: {region: us}}
  rented-1: {parent: cloud, kind: vllm, url: "http://localhost:13", labels: {region: eu}}
  rented-2: {parent: cloud, kind: vllm, url: "http://localhost:14", labels: {region: us}}
  own: {parent: plain, kind: vllm, url: "http://localhost:15"}
"""


def labels(folder: Path, name: str, text: str = SITES) -> dict[str, dict[str, str]]:
    return dict(from_tree(from_text(folder, text), name).labels)


def test_a_nodes_labels_hold_for_all_below_it_that_has_no_others(tmp_path: Path) -> None:
    assert labels(tmp_path, "root") == {
        "site-a": {"trust": "own", "region": "eu/us"},  # it has an engine that is elsewhere
        "cloud": {"trust": "hired", "region": f"{OTHER}/eu/us"},  # and what else it may have is not known
        "plain": {"trust": "own"},
    }
    assert labels(tmp_path, "site-a") == {"rack": {"trust": "own", "region": "eu/us"}}
    assert labels(tmp_path, "rack") == {
        "gpu": {"trust": "own", "region": "eu"},
        "odd": {"trust": "own", "region": "us"},
    }
    assert labels(tmp_path, "cloud")["rented-1"] == {"trust": "hired", "region": "eu"}


def test_a_slice_knows_the_same(tmp_path: Path) -> None:
    tree = from_text(tmp_path, SITES)
    for name in ("site-a", "rack", "cloud", "plain"):
        whole = {key: value for key, value in from_tree(tree, name).labels.items() if key not in ("rack",)}
        part = from_text(tmp_path, as_yaml(slice_of(tree, name), "a slice"))
        assert part.problems == []
        found = from_tree(part, name).labels
        assert {key: found[key] for key in whole} == whole


REPLICAS = """\
version: 1
nodes:
  r1: {listen: "localhost:1", labels: {zone: a}}
  r2: {listen: "localhost:2", replica_of: r1}
  s1: {parent: r1, listen: "localhost:3", labels: {region: eu}}
  s2: {parent: r1, listen: "localhost:4", replica_of: s1%s}
engines:
  gpu: {parent: s1, kind: vllm, url: "http://localhost:5"}
"""


def test_replicas_have_the_labels_of_their_original(tmp_path: Path) -> None:
    for root in ("r1", "r2"):
        assert labels(tmp_path, root, REPLICAS % "") == {"s1": {"zone": "a", "region": "eu"}}
    for site in ("s1", "s2"):
        assert labels(tmp_path, site, REPLICAS % "") == {"gpu": {"zone": "a", "region": "eu"}}
    found = read_text(tmp_path, REPLICAS % ", labels: {region: us}")
    assert problems_of(found) == [
        "6: nodes.s2.labels: differ from those of s1, of which s2 is a replica; "
        "give both the same, or make it a node of its own"
    ]


def test_of_several_parents_only_what_all_have_holds(tmp_path: Path) -> None:
    text = """\
version: 1
nodes:
  root: {listen: "localhost:1"}
  a: {parent: root, listen: "localhost:2", labels: {region: eu, trust: own}}
  b: {parent: root, listen: "localhost:3", labels: {region: eu, trust: hired}}
  below: {parent: [a, b], listen: "localhost:4"}
engines:
  gpu: {parent: below, kind: vllm, url: "http://localhost:5"}
"""
    assert labels(tmp_path, "below", text) == {"gpu": {"region": "eu"}}
    assert labels(tmp_path, "a", text) == {"below": {"region": "eu", "trust": "own"}}


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ({"region": "e u"}, "'e u' is not a value of the label region"),
        ({"re gion": "eu"}, "'re gion' is not the name of a label"),
        ({"region": 1}, "the value of region is not text: 1"),
        ({"region": "eu/"}, "'' is not a value of the label region"),
        ({f"l{n}": "v" for n in range(9)}, "contains 9 labels"),
        (["eu"], "contains no labels"),
    ],
)
def test_bad_labels_are_problems_with_a_line(tmp_path: Path, node: Any, problem: str) -> None:
    text = SITES.replace("labels: {region: eu}}\n  rack", f"labels: {node!r}}}\n  rack".replace("'", '"'))
    (found,) = problems_of(read_text(tmp_path, text))
    assert found.startswith(f"4: nodes.site-a.labels: {problem}; ")


def test_an_engine_has_one_value(tmp_path: Path) -> None:
    (found,) = problems_of(read_text(tmp_path, SITES.replace("labels: {region: us}", "labels: {region: eu/us}", 1)))
    assert found.startswith("10: engines.odd.labels: ")
