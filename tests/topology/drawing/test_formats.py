"""Pictures of a tree for other programs: complete, and well-formed whatever the JSON contains."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given

from hierarchy.topology.drawing import FORMATS
from hierarchy.topology.drawing.boxes import boxes
from hierarchy.topology.drawing.text import draw, rows
from hierarchy.wire.tree_entry import decode
from tests.topology.drawing.trees import LIVE, malformed_entries

TREE = decode(LIVE)
SVG = "{http://www.w3.org/2000/svg}"
ODD = decode({
    "name": 'a"]\n<b>&;#\\', "kind": "vllm\x1b[2J", "state": "down", "detail": "it's | {gone}",
    "models": [{"name": f"m{n}"} for n in range(5)],
})  # fmt: skip


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def rectangles(svg: str) -> list[tuple[float, ...]]:
    groups = ElementTree.fromstring(svg).iter(f"{SVG}g")
    rects = [rect for group in groups for rect in group.iter(f"{SVG}rect")]
    return [tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height")) for rect in rects]


def test_the_boxes_show_kind_numbers_models_and_state() -> None:
    details = {box.name: box.details for box in boxes(TREE)}
    assert details == {
        "root": ("speed 5 · queue 7",),
        "site-a": ("speed 4 · queue 6",),
        "a1": ("vllm", "speed 3.5 · queue 6", "big/Llama-70B"),
        "a2": ("vllm", "speed - · queue -", "down: connection refused"),
        "site-b": ("speed - · queue -", "silent: no report for 12 s"),
    }
    assert boxes(ODD)[0].details[2] == "m0, m1, m2 and 2 more"


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_draws_each_box(name: str) -> None:
    text = FORMATS[name](TREE)
    assert all(box.name in text for box in boxes(TREE))
    assert text.endswith("\n")


def test_dot_has_one_line_for_each_box_and_edge() -> None:
    lines = FORMATS["dot"](TREE).splitlines()
    assert [line.strip() for line in lines if "->" in line] == [
        "n0 -> n1;", "n1 -> n2;", "n1 -> n3 [style=dashed];", "n0 -> n4 [style=dashed];",
    ]  # fmt: skip
    (odd,) = [line for line in FORMATS["dot"](ODD).splitlines() if line.startswith("  n0")]
    assert odd.startswith(r'  n0 [label="a\"]\\n<b>&;#\\\nvllm\\x1b[2J\n')


def test_mermaid_writes_special_characters_as_entities() -> None:
    text = FORMATS["mermaid"](TREE)
    assert '  n0["root<br/>speed 5 · queue 7"]:::up' in text
    assert "  n1 -.-> n3" in text
    assert "  classDef broken fill:#ffebee" in text
    odd = FORMATS["mermaid"](ODD).splitlines()[1]
    assert odd.startswith('  n0(["a#34;#93;#92;n#60;b#62;#38;#59;#35;#92;<br/>vllm#92;x1b#91;2J<br/>')


def test_svg_shows_each_name() -> None:
    svg = FORMATS["svg"](TREE)
    assert [text for text in texts(svg) if text in ("root", "site-a", "a1", "a2", "site-b")] == [
        "root", "site-a", "a1", "a2", "site-b",
    ]  # fmt: skip
    assert ElementTree.fromstring(svg).attrib["viewBox"].startswith("0 0 ")


def test_what_xml_cannot_carry_is_replaced() -> None:
    assert texts(FORMATS["svg"](decode({"name": "a\ud800\uffffb\x01"})))[0] == "a??b\\x01"


@given(malformed_entries)
def test_any_json_object_can_be_drawn_without_overlap(raw: dict[str, Any]) -> None:
    entry = decode(raw)
    count = len(boxes(entry))
    found = rectangles(FORMATS["svg"](entry))
    assert len(found) == count
    for (x1, y1, w1, h1), (x2, y2, w2, h2) in combinations(found, 2):
        assert x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1
    for name in ("dot", "mermaid"):
        lines = FORMATS[name](entry).split("\n")
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", "".join(lines))
        assert len([line for line in lines if re.match(r"  n\d+ (->|-->|-\.->) n\d+", line)]) == count - 1


def test_what_is_below_a_silent_node_is_unknown() -> None:
    below = {"rack": {"kind": "node", "state": "up", "children": {"gpu": {"kind": "vllm", "state": "up"}}},
             "left": {"kind": "vllm", "state": "gone"}}  # fmt: skip
    tree = decode({"name": "root", "kind": "node", "state": "up",
                   "children": {"site": {"kind": "node", "state": "silent", "children": below}}})  # fmt: skip
    states = {"root": "up", "site": "silent", "rack": "unknown", "gpu": "unknown", "left": "gone"}
    assert {box.name: box.state for box in boxes(tree)} == states
    assert {row.name: row.state for row in rows(tree)} == states
    assert "was up before" in str(draw(tree, 120))
