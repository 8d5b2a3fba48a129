"""Labels, requirements and their order: whatever is said of a set, it can only be taken away from."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.labels import (
    CLOSED,
    DENIED,
    MAX_LABELS,
    MAX_SETS,
    OPEN,
    OTHER,
    REST,
    Requirement,
    any_of,
    best,
    check,
    closed,
    is_offer,
    is_readable,
    meet,
    of_parent,
    parse,
    value_of,
    write,
)

names = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", fullmatch=True)
some = st.dictionaries(names, names, min_size=1, max_size=MAX_LABELS)
few_names, few_values = st.sampled_from(["region", "trust", "tier"]), st.sampled_from(["eu", "us", "own"])
requirements = st.dictionaries(few_names, few_values, min_size=1, max_size=3)
vouched = st.sets(few_names, max_size=2)
several = st.lists(few_values | st.just(OTHER), max_size=3).map(any_of)
sets = st.dictionaries(few_names | st.just(REST), several, max_size=4).map(
    lambda found: {**found, REST: DENIED} if REST in found else found
)


@given(some)
def test_what_is_written_is_read(labels: dict[str, str]) -> None:
    assert parse(write(labels)) == labels == check(labels)
    assert parse(" , ".join(f"{name}={value}" for name, value in labels.items())) == labels
    assert Requirement(parse(write(labels))) == Requirement(labels)


@given(st.text(max_size=40) | st.text(alphabet="ab=,. \t-", max_size=20))
def test_any_text_is_labels_or_refused_with_a_hint(text: str) -> None:
    try:
        labels = parse(text)
    except ValueError as error:
        message, hint = error.args
        assert message
        assert hint
        assert len(message) < 200
    else:
        assert parse(write(labels)) == labels
        assert is_readable(labels)


@pytest.mark.parametrize(
    "text",
    ["", ",", "region", "region=", "=eu", "region=eu,", "region=eu,,trust=own", "region=eu;trust=own", "region=e u",
     "region=eu,region=us", "régión=eu", "region=eu\x00", "region==eu", "region=eu\n", "*=eu", "-a=b", "a=b-",
     "x" * 64 + "=a", "a=" + "x" * 64, ",".join(f"l{n}=v" for n in range(MAX_LABELS + 1))],
)  # fmt: skip
def test_such_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


@pytest.mark.parametrize("labels", [None, {}, [], "region=eu", {"a": 1}, {"a": True}, {1: "a"}, {"a": None}, {"*": ""}])
def test_such_values_are_refused(labels: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        check(labels)


@given(sets, sets, sets)
def test_the_order_does_not_matter(a: dict[str, str], b: dict[str, str], c: dict[str, str]) -> None:
    assert meet(a, b) == meet(b, a)
    assert meet(meet(a, b), c) == meet(a, meet(b, c))
    assert meet(meet(a, b), b) == meet(a, b)
    assert is_readable(meet(a, b))
    for name in ("region", "trust", "tier", "other"):
        assert value_of(meet(a, OPEN), name) == value_of(a, name)
        assert value_of(meet(a, CLOSED), name) == DENIED


@given(requirements, sets, sets, vouched)
def test_what_a_child_says_never_adds(
    needed: dict[str, str], bound: dict[str, str], said: dict[str, str], names_: set[str]
) -> None:
    requirement = Requirement(needed, names_)
    if requirement.met_by(bound, said):
        for name, value in needed.items():
            known = value_of(bound, name)
            assert name in names_ if known is None else value in known.split("/")
    if requirement.met_by(bound):  # all below it has the labels, so it can only say that something does not
        assert requirement.met_by(bound, said) == all(
            value_of(said, name) is None or value in (value_of(said, name) or "").split("/")
            for name, value in needed.items()
        )


@given(requirements, requirements, sets, vouched)
def test_a_narrower_requirement_is_met_by_less(
    first: dict[str, str], more: dict[str, str], bound: dict[str, str], names_: set[str]
) -> None:
    wide = Requirement(first, names_)
    if any(first.get(name, value) != value for name, value in more.items()):
        with pytest.raises(ValueError, match=r"^(region|trust|tier)$"):
            wide.narrowed(Requirement(more))
        return
    narrow = wide.narrowed(Requirement(more))
    assert set(wide.pairs) <= set(narrow.pairs)
    assert not narrow.met_by(bound) or wide.met_by(bound)


@given(requirements, sets, vouched)
def test_a_node_hears_of_what_its_whole_subtree_has(
    needed: dict[str, str], bound: dict[str, str], names_: set[str]
) -> None:
    requirement = Requirement(needed, names_)
    below = requirement.below(bound)
    for name in below.vouched:
        assert value_of(bound, name) in (needed[name], None)
    assert of_parent(below.field.decode()) == below
    assert below.pairs == requirement.pairs
    if requirement.met_by(bound):
        assert below.vouched == set(needed)


@given(st.lists(sets, max_size=8), requirements, sets)
def test_the_best_sets_serve_what_all_of_them_serve(
    found: list[dict[str, str]], needed: dict[str, str], bound: dict[str, str]
) -> None:
    requirement = Requirement(needed)
    kept = best(found)
    assert kept is not None
    assert any(requirement.met_by(bound, one) for one in found) == any(requirement.met_by(bound, one) for one in kept)
    assert best(kept) == kept
    assert all(is_readable(one) for one in kept)


def test_more_sets_than_fit_offer_nothing() -> None:
    many = [closed({"region": f"r{number}"}) for number in range(MAX_SETS + 1)]
    assert best(many) is None
    assert len(best(many[1:]) or ()) == MAX_SETS


def test_what_offers_nothing_is_left_out() -> None:
    assert best([CLOSED, {REST: DENIED}, {"region": DENIED, REST: DENIED}]) == ()
    assert not is_offer(CLOSED)
    assert is_offer({"region": DENIED})


@pytest.mark.parametrize(
    "labels", [{"*": "eu"}, {"a b": "c"}, {"a": "b\n"}, {f"l{n}": "v" for n in range(40)}, {"a": "b/"}]
)
def test_such_sets_are_not_read(labels: dict[str, str]) -> None:
    assert not is_readable(labels)


def test_requirements_are_told_apart() -> None:
    all_ = [Requirement({"a": "b"}), Requirement({"a": "b"}, ["a"]), Requirement({"a": "c"})]
    assert all(one != other for one, other in pairwise(all_))
    assert Requirement({"a": "b"}) in set(all_)
    assert len({*all_, Requirement({"a": "c"})}) == 3
