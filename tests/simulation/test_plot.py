"""Results as a picture."""

from __future__ import annotations

from xml.etree import ElementTree

from hierarchy.simulation.measures import NONE, Moment, Result, Spread
from hierarchy.simulation.plot import svg


def result(policy: str, ttft: float) -> Result:
    spread = Spread(ttft, ttft, ttft * 10)
    moments = tuple(Moment(float(at), 5, spread, 0.5) for at in range(10))
    return Result(policy, 50, 0, spread, NONE, 0.5, 1.0, 0.5, 0.4, 0.6, 0.0, True, 0.0, 10.0, 1000, (), (), moments)


def test_a_picture_has_a_line_for_each_policy_in_each_panel() -> None:
    picture = svg([result("one <&>", 0.1), result("two", 3.0)], [("site-a is lost", 5.0)])
    root = ElementTree.fromstring(picture)
    lines = root.findall("{*}polyline")
    assert len(lines) == 3 * 2
    assert all(len(line.attrib["points"].split()) == 10 for line in lines)
    texts = [text.text for text in root.findall("{*}text")]
    assert {"one <&>", "two", "site-a is lost"} <= set(texts)
    height = float(root.attrib["height"])
    assert all(0 <= float(point.split(",")[1]) <= height for line in lines for point in line.attrib["points"].split())


def test_a_picture_of_nothing_is_one() -> None:
    ElementTree.fromstring(svg([]))
