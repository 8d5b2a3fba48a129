"""`models` and `aliases` as they are written in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hierarchy.config.model_names import Target, parse_models, parse_targets, renames
from hierarchy.config.models import ConfigError
from tests.trees import from_text, problems_of

HEAD = 'version: 1\nnodes: {root: {listen: "localhost:1"}}\n'


@pytest.mark.parametrize(
    ("value", "models"),
    [(["a", "b/c:d"], {"a": "a", "b/c:d": "b/c:d"}), ({"x": "a", "b": "b"}, {"x": "a", "b": "b"}), ({}, {})],
)
def test_lists_and_mappings_of_models_are_parsed(value: Any, models: dict[str, str]) -> None:
    assert parse_models(value) == models


def test_only_names_that_differ_are_renames() -> None:
    assert renames({"x": "a", "b": "b"}) == {"x": "a"}


@pytest.mark.parametrize("value", [[], "a", 3, [3], [""], ["a\nb"], ["x" * 300], {"a": 3}, {3: "a"}, {"a": None}])
def test_bad_models_have_a_hint(value: Any) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_models(value)
    assert len(caught.value.args) == 2


@pytest.mark.parametrize(
    ("value", "targets"),
    [
        ("a", [("a", None)]),
        (["a", {"model": "b", "weight": 1}], [("a", None), ("b", 1.0)]),
        ([{"model": "a", "weight": 99.5}, {"model": "b", "weight": 0.5}], [("a", 99.5), ("b", 0.5)]),
        ([{"model": "a"}], [("a", None)]),
    ],
)
def test_lists_of_targets_are_parsed(value: Any, targets: list[tuple[str, float | None]]) -> None:
    assert parse_targets(value) == tuple(Target(model=name, weight=weight) for name, weight in targets)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "an empty list"),
        (3, "3 is not a model"),
        ([{"weight": 3}], "is not a model"),
        ([{"model": "a", "wait": 3}], "is not a model"),
        (["a", "a"], "contains 'a' twice"),
        ([""], "not the name of a model"),
        ([{"model": "a", "weight": -1}, "b"], "not a percentage"),
        ([{"model": "a", "weight": True}, "b"], "not a percentage"),
        ([{"model": "a", "weight": float("nan")}, "b"], "not a percentage"),
        ([{"model": "a", "weight": "1"}, "b"], "not a percentage"),
        ([{"model": "a", "weight": 60}, {"model": "b", "weight": 60}, "c"], "120 percent"),
        ([{"model": "a", "weight": 1}, {"model": "b", "weight": 1}], "2 percent, not 100"),
    ],
)
def test_bad_targets_have_a_hint(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_targets(value)
    assert len(caught.value.args) == 2


def test_problems_have_their_line(tmp_path: Path) -> None:
    text = (
        HEAD
        + "engines:\n  e: {parent: root, kind: simulated,\n    models: []}\naliases:\n  a: [b]\n  c: [{model: 3}]\n"
    )
    with pytest.raises(ConfigError) as caught:
        from_text(tmp_path, text)
    first, second = str(caught.value).splitlines()
    assert ":5: engines.e.models: an empty list: the engine would serve nothing; leave `models` out" in first
    assert ":8: aliases.c: {'model': 3} is not a model; write a model's name" in second


def test_an_alias_of_another_alias_is_refused_and_one_of_its_own_name_is_not(tmp_path: Path) -> None:
    text = HEAD + "engines:\n  e: {parent: root, kind: simulated}\naliases:\n  a: [a, m]\n  b: [m, a]\n"
    assert problems_of(from_text(tmp_path, text)) == ['7: aliases.b: "a" is itself an alias; name the models behind it']
