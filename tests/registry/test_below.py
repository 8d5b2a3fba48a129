"""What is below a child is kept up to the child's share of what its parent may report."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchy.introspection.tree import CUT, TreeView
from hierarchy.registry.below import patch_below, replace_below
from hierarchy.registry.child import Child
from hierarchy.wire.limits import limits, weigh
from tests.builders import Table, report, site, subtrees

SMALL = limits(32 * 1024)  # 8 kB of a subtree, 1,000 values


def child() -> Child:
    return Child("site-a", "http://a:1", "node")


def test_a_subtree_within_the_share_is_kept() -> None:
    one = child()
    replace_below(one, {"gpu": {"state": "up"}}, SMALL)
    patch_below(one, {"gpu": {"state": "down"}}, SMALL)
    assert one.subtree == {"gpu": {"state": "down"}}
    assert not one.below_is_cut


def test_one_that_is_too_large_is_not_kept_and_the_next_registration_begins_anew() -> None:
    for large in ({"x": "y" * 10_000}, {str(number): 0 for number in range(1500)}):
        one = child()
        replace_below(one, large, SMALL)
        assert one.subtree == {}
        assert one.below_is_cut
        patch_below(one, {"gpu": {"state": "down"}}, SMALL)
        assert one.subtree == {}, "a patch of what is not known would show parts of entries"
        replace_below(one, {"gpu": {}}, SMALL)
        assert (one.subtree, one.below_is_cut) == ({"gpu": {}}, False)


def test_patches_add_up() -> None:
    one = child()
    replace_below(one, {}, SMALL)
    for number in range(100):
        patch_below(one, {f"n{number}": "x" * 200}, SMALL)
    assert one.below_is_cut


def test_patches_that_replace_each_other_do_not() -> None:
    one = child()
    replace_below(one, {}, SMALL)
    for number in range(1000):
        patch_below(one, {"n": f"{number}" * 50}, SMALL)
    assert not one.below_is_cut
    assert one.below.bytes <= SMALL.subtree_bytes


@settings(max_examples=50)
@given(st.lists(subtrees, max_size=8))
def test_the_noted_size_is_never_too_small(patches: list[dict[str, object]]) -> None:
    one = child()
    replace_below(one, {}, SMALL)
    for patch in patches:
        patch_below(one, patch, SMALL)
        size, values, _ = weigh(one.subtree)
        assert one.below.bytes + 2 >= size
        assert one.below.values + 1 >= values


def test_a_child_whose_subtree_is_cut_keeps_its_place_and_operators_see_why() -> None:
    table = Table()
    table.limits = SMALL
    one = table.add(site("site-a", children={"x": {"detail": "y" * 10_000}}))
    assert table.receive(report("site-a", seq=2))
    entry = TreeView(table, table.clock).entry(one)
    assert entry["children"] == {}
    assert entry["warnings"] == [CUT]
    assert len(msgspec.json.encode(entry)) < 2000
