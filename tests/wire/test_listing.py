"""What a subtree lists: as its entries are decoded, and after a patch only what it changed is read again."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch as replaced

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.wire import listing as module
from hierarchy.wire.listing import listing
from hierarchy.wire.subtree import diff, merge
from hierarchy.wire.tree_entry import MAX_DEPTH, decode
from tests.builders import nested, scalars
from tests.wire.test_subtree import SITES

rows = st.fixed_dictionaries(
    {},
    optional={"name": st.sampled_from(["m", "n", "", 3]), "api": st.sampled_from(["openai", "fastchat", "later", 1])},
)
engines = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["vllm", "", 5]),
        "models": st.lists(rows | scalars, max_size=3) | scalars,
        "speed": scalars,
    },
)
trees = st.recursive(
    st.dictionaries(st.sampled_from("abc"), engines | nested(scalars), max_size=3),
    lambda below: st.dictionaries(
        st.sampled_from("abc"),
        engines | st.fixed_dictionaries({"kind": st.just("node"), "children": below}),
        max_size=3,
    ),
    max_leaves=8,
)


def decoded(tree: Any) -> set[tuple[str, str]]:
    """The models of all engines below, from decoded entries."""
    return {(row.name, row.api) for _, engine in decode({"children": tree}).engines() for row in engine.models}


def test_a_model_is_listed_whether_its_engine_is_available_or_not() -> None:
    assert listing(SITES).keys == {("m", "openai"), ("n", "fastchat"), ("x", "openai")}


@given(trees)
def test_it_lists_what_decoded_entries_have(tree: Any) -> None:
    assert listing(tree).keys == decoded(tree)


@given(trees, trees)
def test_after_a_patch_it_lists_what_a_new_one_would(old: Any, new: Any) -> None:
    patched = merge(old, diff(old, new))
    assert listing(patched, listing(old)).keys == listing(new).keys


def test_of_a_patched_subtree_only_what_changed_is_read() -> None:
    before = listing(SITES)
    patched = merge(SITES, {"site-a": {"children": {"gpu-2": {"queue_length": 3}}}})
    with replaced.object(module, "_rows", wraps=module._rows) as read:
        after = listing(patched, before)
    assert read.call_count == 1
    assert after.keys == before.keys
    assert listing(patched, after) is after


def test_an_engine_that_becomes_a_node_lists_nothing_of_its_own() -> None:
    old = {"b": {"kind": "vllm", "models": [{"name": "m"}]}}
    patched = merge(old, {"b": {"kind": "node", "children": {}}})
    assert listing(patched, listing(old)).keys == set()


def test_more_models_than_a_node_keeps_of_one_child_are_not_known() -> None:
    def engines(count: int) -> dict[str, Any]:
        rows = [{"name": f"m{number}"} for number in range(count)]
        return {f"e{start}": {"kind": "vllm", "models": rows[start : start + 5000]} for start in range(0, count, 5000)}

    assert len(listing(engines(module.MAX_LISTED)).keys) == module.MAX_LISTED
    assert listing(engines(module.MAX_LISTED + 1)).keys == set()


def test_an_entry_that_contains_itself_ends() -> None:
    entry: dict[str, Any] = {"kind": "node"}
    entry["children"] = {"a": entry, "gpu": {"kind": "vllm", "models": [{"name": "m"}]}}
    assert listing({"a": entry}).keys == {("m", "openai")} == decoded({"a": entry})
    deep: dict[str, Any] = {"gpu": {"kind": "vllm", "models": [{"name": "m"}]}}
    for _ in range(MAX_DEPTH + 1):
        deep = {"a": {"kind": "node", "children": deep}}
    assert listing(deep).keys == decoded(deep) == set()


def test_an_engine_that_becomes_a_node_without_children_lists_nothing() -> None:
    before = listing({"b": {"models": [{"name": "m"}]}})
    after = listing({"b": {"kind": "node", "children": {}}}, before)
    assert (before.engines, before.keys) == (1, frozenset({("m", "openai")}))
    assert (after.engines, after.keys) == (0, frozenset())
