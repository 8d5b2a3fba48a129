"""Which models are tried for an alias, and in which order."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.balancing.aliases import Aliases, first_shares
from hierarchy.balancing.dispatch import Dispatch
from hierarchy.config.model_names import Target, parse_targets
from hierarchy.introspection.model_list import ModelList
from tests.builders import Table, model, status_of


def targets(*entries: str | tuple[str, float]) -> tuple[Target, ...]:
    return parse_targets(
        [entry if isinstance(entry, str) else {"model": entry[0], "weight": entry[1]} for entry in entries]
    )


@pytest.mark.parametrize(
    ("entries", "shares"),
    [
        (["a"], {"a": 100}),
        (["a", "b"], {"a": 100}),
        (["a", ("b", 1)], {"a": 99, "b": 1}),
        ([("b", 1), "a", "c"], {"b": 1, "a": 99}),
        ([("a", 50), ("b", 50)], {"a": 50, "b": 50}),
        ([("a", 0), "b"], {"b": 100}),
        ([("a", 100), "b"], {"a": 100}),
    ],
)
def test_the_share_of_each_model_that_is_tried_first(
    entries: list[str | tuple[str, float]], shares: dict[str, float]
) -> None:
    assert first_shares(targets(*entries)) == shares


@given(st.lists(st.floats(0, 100), min_size=1, max_size=4))
def test_shares_are_all_of_the_requests(weights: list[float]) -> None:
    if sum(weights) > 100:
        weights = [weight / len(weights) for weight in weights]
    weighted = [(f"m{i}", weight) for i, weight in enumerate(weights)]
    assert sum(first_shares(targets(*weighted, "rest")).values()) == pytest.approx(100)


def test_the_others_follow_in_the_configured_order() -> None:
    aliases = Aliases({"x": targets("a", ("b", 30), "c")}, Random(3))
    orders = Counter(tuple(aliases.order("x")) for _ in range(1000))
    assert set(orders) == {("a", "b", "c"), ("b", "a", "c")}
    assert 240 < orders["b", "a", "c"] < 360
    assert aliases.order("other") == ["other"]
    assert ("x" in aliases, "other" in aliases, list(aliases), bool(Aliases({}, Random()))) == (
        True,
        False,
        ["x"],
        False,
    )


class Tree:
    def __init__(self) -> None:
        self.table = Table()
        self.aliases = Aliases({"x": targets("a", "b"), "m": targets("m", "b"), "n": targets("nope")}, Random(7))
        self.dispatch = Dispatch(self.table, "shortest_queue", Random(7), self.aliases)

    def serve(self, name: str) -> None:
        engine = self.table.declare(f"e-{name}", f"http://{name}:1", "vllm")
        self.table.report(engine, status_of(model(name)))


def test_an_alias_is_resolved_to_an_available_model() -> None:
    tree = Tree()
    assert tree.dispatch.resolve("x", "openai") == "a"  # no child serves either: the error names the preferred one
    tree.serve("b")
    assert tree.dispatch.resolve("x", "openai") == "b"
    assert tree.dispatch.resolve("x", "fastchat") == "a"
    tree.serve("a")
    assert tree.dispatch.resolve("x", "openai") == "a"
    tree.table.mark_down(tree.table.children["e-a"], "gone")
    assert tree.dispatch.resolve("x", "openai") == "b"
    tree.table.mark_down(tree.table.children["e-b"], "gone")
    assert tree.dispatch.resolve("x", "openai") == "a"
    assert tree.dispatch.resolve("unknown", "openai") == "unknown"


def test_an_alias_with_the_name_of_a_model_falls_back() -> None:
    tree = Tree()
    tree.serve("b")
    assert tree.dispatch.resolve("m", "openai") == "b"
    tree.serve("m")
    assert tree.dispatch.resolve("m", "openai") == "m"


def test_aliases_are_listed_with_their_models() -> None:
    tree = Tree()
    tree.serve("b")
    rows = ModelList(tree.table, tree.table.clock, 0, tree.aliases).rows().values()
    assert [(row["id"], row.get("alias_of"), row["served_by"]) for row in rows] == [
        ("b", None, ["e-b"]),
        ("x", ["b"], ["e-b"]),
        ("m", ["b"], ["e-b"]),
    ]
