"""YAML files as plain data with lines, and their problems."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.config.yaml import Problem, closest, read_yaml


def test_values_are_plain_and_every_field_has_its_line() -> None:
    data, source, problems = read_yaml("a: 1\nb:\n  c: [x,\n      yes]\n  d: {e: 1.5}\n", "f.yaml")
    assert data == {"a": 1, "b": {"c": ["x", "yes"], "d": {"e": 1.5}}}
    assert not problems
    assert [source.line(path) for path in [("a",), ("b", "c", 1), ("b", "d", "e")]] == [1, 4, 5]


def test_a_missing_field_has_the_line_of_the_field_around_it() -> None:
    _, source, _ = read_yaml("a: 1\nb:\n  c: 2\n", "f.yaml")
    assert source.line(("b", "missing", "deeper")) == 2
    assert source.line(("missing",)) == 1


def test_a_problem_is_one_line() -> None:
    assert str(Problem("f.yaml", 3, "a.b", "is bad", "fix it")) == "f.yaml:3: a.b: is bad; fix it"
    assert str(Problem("f.yaml", 0, "", "no such file", "check")) == "f.yaml: no such file; check"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: [1\nb", 2, "not YAML: expected ',' or ']'"),
        ("a: 1\n\tb: 2", 2, "not YAML: found character '\\t'"),
        ("a: b: c", 1, "not YAML: mapping values are not allowed here"),
        ("a: 1\nb: *c", 2, "not YAML: found undefined alias"),
        ("a: 1\n---\nb: 1", 2, "not YAML: but found another document"),
        ("a: 1\nb: \x01", 2, r"not YAML: character '\x01'"),
        ("[" * 600, 1, "nested too deeply"),
    ],
)
def test_a_syntax_error_is_one_problem_with_its_line(text: str, line: int, message: str) -> None:
    data, _, (problem,) = read_yaml(text, "f.yaml")
    assert data is None
    assert problem.line == line
    assert problem.message.startswith(message)
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("x: 1\na: {b: 1, b: 2}", "a.b", "is repeated, first on line 2"),
        ("x: 1\na: !!int q", "a", "'q' is not a valid int"),
        ("x: 1\na: !!bool q", "a", "'q' is not a valid bool"),
        ("x: 1\na: 2026-13-45", "a", "'2026-13-45' is not a valid timestamp"),
        ("x: 1\na: " + "9" * 5000, "a", f"'{'9' * 40}' is not a valid int"),
        ("x: 1\na: !mine 1", "a", "'1' is not a valid !mine"),
        ("x: &x {y: 1}\na: {<<: *x}", "a.<<", "YAML 1.2 has no merge keys"),
        ("x: 1\n[a]: 1", "", "a key that is not a plain word"),
        ("x: 1\na: &a {b: *a}", "a.b", "contains itself"),
    ],
)
def test_values_that_only_yaml_allows(text: str, field: str, message: str) -> None:
    data, _, (problem,) = read_yaml(text, "f.yaml")
    assert (problem.line, problem.field, problem.message) == (2, field, message)
    assert "x" in data, "the rest of the file is still read"


def test_an_alias_has_the_value_of_its_anchor() -> None:
    data, _, problems = read_yaml("a0: &a0 [x]\na1: [*a0, *a0]", "f.yaml")
    assert not problems
    assert data["a1"] == [["x"]] * 2


TOKENS = ["a", ": ", "- ", "!!int ", "!!set ", "!!omap ", "&x ", "*x", "<<", "\n", "  ", "? ", "1:2", "0x", "---\n"]


@given(
    st.one_of(
        st.text(),
        st.text("ab:-[]{}&*!|>'\"#%@,?<0123456789. \n\t", max_size=60),
        st.lists(st.sampled_from(TOKENS)).map("".join),
    )
)
def test_any_text_is_read_or_is_a_problem(text: str) -> None:
    data, _, problems = read_yaml(text, "f.yaml")
    assert all(problem.line >= 1 and "\n" not in problem.what for problem in problems)
    assert data is None or not any(problem.message.startswith("not YAML") for problem in problems)


def test_the_hint_names_the_closest_choice() -> None:
    assert closest("shortest_que", ["lottery", "shortest_queue"]) == 'did you mean "shortest_queue"?'
    assert closest("xyz", ["a1", "b2"]) == "choose one of a1, b2"
    assert closest("xyz", ["a1"]) == "only a1 is known"
    assert closest("xyz", []) == "none is known"


@pytest.mark.parametrize("levels", [6, 12, 40])
@pytest.mark.parametrize("form", ["[{}]", "{{k: [{}]}}"])
def test_aliases_of_aliases_are_refused_before_they_are_written_out(levels: int, form: str) -> None:
    """Nine aliases a level: 40 levels stand for more values than there are atoms in the sun."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        inside = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} {form.format(inside)}")
    data, _, problems = read_yaml("\n".join(lines), "tree.yaml")
    assert data is None
    assert [problem.what for problem in problems] == [
        "its aliases stand for far more values than it has; write out what they stand for, or use `defaults`"
    ]


def test_an_alias_for_each_of_a_thousand_engines_is_no_such_thing() -> None:
    lines = ["base: &base {kind: vllm, speed: 2, models: [a, b, c]}", "engines:"]
    lines += [f"  e{number}: *base" for number in range(1000)]
    data, _, problems = read_yaml("\n".join(lines), "tree.yaml")
    assert not problems
    assert len(data["engines"]) == 1000
