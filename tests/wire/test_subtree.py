"""Merge patches of subtrees: `merge` applies what `diff` found. And which JSON a child may send as its subtree."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.wire.listing import listing
from hierarchy.wire.subtree import all_gone, diff, merge, rejection_reason
from hierarchy.wire.tree_entry import MAX_DEPTH
from tests.builders import nested, scalars, subtrees

anything = nested(scalars | st.none() | st.floats() | st.text(st.characters(), max_size=2))


@given(subtrees, subtrees)
def test_the_patch_turns_the_old_subtree_into_the_new_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    before = copy.deepcopy((old, new))
    patch = diff(old, new)
    assert merge(old, patch) == new
    assert (old, new) == before
    assert (patch == {}) == (old == new)


@given(subtrees, subtrees, subtrees)
def test_patches_can_follow_each_other(first: dict[str, Any], second: dict[str, Any], third: dict[str, Any]) -> None:
    known = merge(merge({}, first), diff(first, second))
    assert merge(known, diff(second, third)) == third


@given(subtrees, anything)
def test_no_patch_changes_its_target_in_place(target: dict[str, Any], patch: Any) -> None:
    before = copy.deepcopy(target)
    merge(target, patch)
    assert target == before


def test_an_unchanged_part_stays_the_same_object_and_is_not_sent() -> None:
    same = {"name": "b", "models": [{"name": "m"}]}
    old = {"a": {"queue_length": 1, "state": "up"}, "b": same, "gone": {}}
    new = {"a": {"queue_length": 2, "state": "up"}, "b": same}
    assert diff(old, new) == {"a": {"queue_length": 2}, "gone": None}
    assert merge(old, diff(old, new))["b"] is same


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_follows_rfc_7396(target: Any, patch: Any, result: Any) -> None:
    assert merge(target, patch) == result


def chain(levels: int) -> dict[str, Any]:
    """Nodes below each other, as `TreeView` nests them."""
    tree: dict[str, Any] = {}
    for level in range(levels):
        tree = {f"n{level}": {"kind": "node", "state": "up", "models": [{"name": "m"}], "children": tree}}
    return tree


def test_the_depth_of_a_subtree_is_limited() -> None:
    assert rejection_reason(chain(MAX_DEPTH)) == ""
    deep: Any = 0
    for _ in range(3 * MAX_DEPTH):
        deep = [deep]
    assert "deeper" in rejection_reason(deep)
    assert "deeper" in rejection_reason(chain(2 * MAX_DEPTH))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "\ud800", "x\udfff", {"\udc00": 1}])
def test_values_that_json_cannot_carry_are_found_at_any_depth(bad: Any) -> None:
    for value in (bad, {"a": bad}, {"a": {"b": [0, bad]}}):
        assert "JSON cannot carry" in rejection_reason(value)


@given(anything)
def test_json_that_is_not_rejected_can_be_encoded(value: Any) -> None:
    try:
        sent = msgspec.json.encode(value)
        json.dumps(value, allow_nan=False)
    except ValueError:
        assert rejection_reason(value)
    else:
        assert rejection_reason(value) == ""
        assert json.loads(sent) == value


SITES = {
    "site-a": {
        "kind": "node",
        "state": "up",
        "children": {
            "gpu-1": {"kind": "vllm", "state": "up", "models": [{"name": "m", "api": "openai"}]},
            "gpu-2": {"kind": "fastchat", "state": "down", "models": [{"name": "n", "api": "fastchat"}]},
        },
    },
    "site-b": {
        "kind": "node",
        "state": "silent",
        "children": {"gpu-1": {"kind": "vllm", "state": "up", "models": [{"name": "x", "api": "openai"}]}},
    },
    "gpu-0": {"kind": "local", "state": "up", "models": []},
}


def test_the_whole_subtree_of_a_child_that_left_is_gone() -> None:
    gone = all_gone({**SITES, "malformed": 5})
    assert gone.keys() == SITES.keys()
    assert gone["site-a"]["children"]["gpu-2"] == {
        "kind": "fastchat",
        "state": "gone",
        "detail": "",
        "models": [{"name": "n", "api": "fastchat"}],
        "children": {},
    }


@given(
    anything
    | st.dictionaries(st.sampled_from("ab"), st.fixed_dictionaries({"kind": st.just("node"), "children": anything}))
)
def test_a_malformed_subtree_is_skipped(tree: Any) -> None:
    assert all(isinstance(name, str) and isinstance(api, str) for name, api in listing(tree).keys)
    all_gone(tree)
