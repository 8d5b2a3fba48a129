"""Names: which are allowed, and that they are the same in files, registrations and on the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.names import MAX_NAME, as_node_name, is_node_name, is_printable_name


@pytest.mark.parametrize("name", ["a", "9", "site-a.rack_1", "x" * MAX_NAME])
def test_names_of_nodes(name: str) -> None:
    assert is_node_name(name)


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "a\n", "é", "http://gpu:1", "x" * (MAX_NAME + 1)])
def test_texts_that_are_not_names_of_nodes(name: str) -> None:
    assert not is_node_name(name)


@pytest.mark.parametrize(
    ("name", "allowed"), [("org/model:7b é", True), ("", False), ("a\tb", False), ("x" * 257, False)]
)
def test_names_of_models(name: str, allowed: bool) -> None:
    assert is_printable_name(name) is allowed


@given(st.text(max_size=60))
def test_a_machine_name_becomes_a_name_of_a_node(hostname: str) -> None:
    assert is_node_name(as_node_name(f"{hostname}-21001"))
