"""How a running tree differs from the file that declares it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hierarchy.topology.drift import drift
from hierarchy.topology.live import live_graph
from hierarchy.wire.tree_entry import decode
from tests.topology.running import CONFIG, entry, running
from tests.trees import from_text


def drifts(tmp_path: Path, tree: dict[str, Any]) -> list[str]:
    declared = from_text(tmp_path, CONFIG).graph
    return [f"{item.name}: {item.what}" for item in drift(declared, live_graph(decode(tree)))]


def test_a_tree_that_runs_as_declared_has_no_differences(tmp_path: Path) -> None:
    assert drifts(tmp_path, running()) == []


A1 = entry("a1", "vllm", "http://10.0.0.11:8000")


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"a": {"below": []}}, ["a1: declared below a, but absent"]),
        ({"a1": {"state": "gone", "detail": "left 9 s ago"}}, ["a1: declared below a, but absent: left 9 s ago"]),
        ({"a1": {"state": "down", "detail": "refused"}}, ["a1: is down: refused"]),
        ({"a1": {"state": "asleep"}}, ["a1: is asleep"]),
        ({"a1": {"state": "asleep", "wakes": True}}, []),
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
