"""Trees drawn for a terminal: within its width, and harmless whatever the JSON contains."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.topology.drawing.text import draw, model_names, rows
from hierarchy.wire.tree_entry import MAX_DEPTH, decode
from tests.topology.drawing.trees import LIVE, malformed_entries, model


def test_a_hostile_tree_is_harmless() -> None:
    entry = {"name": "a\x1b[2J\n[red]", "state": "up\r", "detail": "\x07", "models": [{"name": "m\n[/]"}], "url": 7}
    plain = draw(decode(entry), 80).plain
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", plain)
    assert "a\\x1b[2J\\n[red]" in plain


@given(malformed_entries, st.integers(40, 200))
def test_any_json_object_can_be_drawn(entry: dict[str, Any], width: int) -> None:
    assert draw(decode(entry), width).plain.count("\n") >= 3


def test_the_reason_for_a_state_has_lines_of_its_own() -> None:
    reason = "http://10.0.0.2:8000: All connection attempts failed"
    gpu = {"kind": "vllm", "state": "down", "detail": reason, "models": [{"name": "m"}]}
    lines = draw(decode({"name": "root", "kind": "node", "children": {"a": gpu, "b": gpu}}), 80).plain.split("\n")
    assert lines[3] == f"│          {reason}"
    assert lines[5] == f"           {reason}"


def test_the_round_trip_to_a_distant_site_is_shown() -> None:
    far = {"kind": "node", "link": "reverse", "round_trip_s": 0.1012}
    near = {"kind": "vllm", "round_trip_s": 0.0004}
    text = draw(decode({"name": "root", "kind": "node", "children": {"far": far, "near": near}}), 100).plain
    assert "far reverse 101 ms" in text
    assert "near vllm  " in text
    assert "ms: the round trip to it" in text


def test_what_came_from_caches_is_shown_where_it_is_known() -> None:
    known = {
        "kind": "vllm",
        "models": [
            {"name": "m", "hit_rate": 0.9, "engine_hit_rate": 0.824},
            {"name": "m", "api": "fastchat", "engine_hit_rate": 0.824},
        ],
    }
    half = {"kind": "vllm", "models": [{"name": "m", "engine_hit_rate": 0.5}, {"name": "n", "hit_rate": 1.0}]}
    none = {"kind": "tgi", "models": [{"name": "m", "hit_rate": 7}]}
    text = draw(decode({"name": "root", "kind": "node", "children": {"a": known, "b": half}}), 100).plain
    assert re.search(r"a vllm .* 82% \(90%\) +m \(", text)
    assert re.search(r"b vllm .* 50%, - \(100%\) +m, n\n", text)
    assert "cache: of prompts" in text
    assert "cache" not in draw(decode({"name": "root", "kind": "node", "children": {"c": none}}), 100).plain


def test_a_deep_tree_is_drawn_to_a_limit() -> None:
    entry: dict[str, Any] = {}
    for _ in range(500):
        entry = {"children": {"x": entry}}
    assert len(list(rows(decode(entry)))) == MAX_DEPTH + 1


@pytest.mark.parametrize("width", [70, 80, 100, 120, 200])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    *lines, _legend = draw(decode(LIVE), width).plain.split("\n")
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ([model("a"), model("a", "fastchat"), model("b", "fastchat")], ["a (openai, fastchat)", "b (fastchat)"]),
        ([{"name": "a"}, "nonsense", {}], ["a"]),
        (None, []),
    ],
)
def test_the_models_of_an_entry_are_listed_by_name_and_family(models: object, names: list[str]) -> None:
    assert model_names(decode({"models": models}).models) == names
