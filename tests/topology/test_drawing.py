"""Pictures of a tree: well-formed whatever stands in it, and with everything in them."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given

from hierarchy.topology.drawing import FORMATS
from hierarchy.topology.drawing.parts import parts
from tests.tools.test_show_tree import LIVE, entries

SVG = "{http://www.w3.org/2000/svg}"
ODD = {
    "name": 'a"]\n<b>&;#\\', "kind": "vllm\x1b[2J", "state": "down", "detail": "it's | {gone}",
    "models": [{"name": f"m{n}"} for n in range(5)],
}  # fmt: skip


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def boxes(svg: str) -> list[tuple[float, ...]]:
    groups = ElementTree.fromstring(svg).iter(f"{SVG}g")
    rects = [rect for group in groups for rect in group.iter(f"{SVG}rect")]
    return [tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height")) for rect in rects]


def test_the_parts_say_what_matters() -> None:
    words = {part.name: part.words for part in parts(LIVE)}
    assert words == {
        "root": ("speed 5 · queue 7",),
        "site-a": ("speed 4 · queue 6",),
        "a1": ("vllm", "speed 3.5 · queue 6", "big/Llama-70B"),
        "a2": ("vllm", "speed - · queue -", "down: connection refused"),
        "site-b": ("speed - · queue -", "silent: no report for 12 s"),
    }
    assert parts(ODD)[0].words[2] == "m0, m1, m2 and 2 more"


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_has_each_part(name: str) -> None:
    text = FORMATS[name](LIVE)
    assert all(part.name in text for part in parts(LIVE))
    assert text.endswith("\n")


def test_dot_is_a_line_a_box_and_a_line_an_edge() -> None:
    lines = FORMATS["dot"](LIVE).splitlines()
    assert [line.strip() for line in lines if "->" in line] == [
        "n0 -> n1;", "n1 -> n2;", "n1 -> n3 [style=dashed];", "n0 -> n4 [style=dashed];",
    ]  # fmt: skip
    (odd,) = [line for line in FORMATS["dot"](ODD).splitlines() if line.startswith("  n0")]
    assert odd.startswith(r'  n0 [label="a\"]\\n<b>&;#\\\nvllm\\x1b[2J\n')


def test_mermaid_writes_what_has_a_meaning_as_codes() -> None:
    text = FORMATS["mermaid"](LIVE)
    assert '  n0["root<br/>speed 5 · queue 7"]:::up' in text
    assert "  n1 -.-> n3" in text
    assert "  classDef broken fill:#ffebee" in text
    odd = FORMATS["mermaid"](ODD).splitlines()[1]
    assert odd.startswith('  n0(["a#34;#93;#92;n#60;b#62;#38;#59;#35;#92;<br/>vllm#92;x1b#91;2J<br/>')


def test_svg_shows_the_words_and_keeps_the_boxes_apart() -> None:
    svg = FORMATS["svg"](LIVE)
    assert [text for text in texts(svg) if text in ("root", "site-a", "a1", "a2", "site-b")] == [
        "root", "site-a", "a1", "a2", "site-b",
    ]  # fmt: skip
    assert ElementTree.fromstring(svg).attrib["viewBox"].startswith("0 0 ")


def test_what_xml_cannot_carry_is_left_out() -> None:
    assert texts(FORMATS["svg"]({"name": "a\ud800\uffffb\x01"}))[0] == "a??b\\x01"


@given(entries)
def test_any_json_object_can_be_drawn(entry: dict[str, Any]) -> None:
    count = len(parts(entry))
    found = boxes(FORMATS["svg"](entry))
    assert len(found) == count
    for (x1, y1, w1, h1), (x2, y2, w2, h2) in combinations(found, 2):
        assert x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1
    for name in ("dot", "mermaid"):
        lines = FORMATS[name](entry).split("\n")
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", "".join(lines))
        assert len([line for line in lines if re.match(r"  n\d+ (->|-->|-\.->) n\d+", line)]) == count - 1
