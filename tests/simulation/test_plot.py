"""Results as a picture."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from hierarchy.simulation.measures import NONE, Moment, Result, Spread
from hierarchy.simulation.plot import svg, tick_s


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


@pytest.mark.parametrize(
    ("end_s", "expected"), [(8.0, 1.0), (9.0, 2.0), (45.0, 10.0), (2344.0, 500.0), (400.0, 50.0), (0.5, 0.1)]
)
def test_times_on_the_axis_are_round(end_s: float, expected: float) -> None:
    assert tick_s(end_s) == pytest.approx(expected)


def test_what_is_not_counted_is_grey_and_a_late_mark_has_its_name_on_the_left() -> None:
    root = ElementTree.fromstring(svg([result("one", 0.1)._replace(counted_from_s=4.0)], [("late", 9.0)]))
    assert len(root.findall("{*}rect")) == 1 + 3
    texts = {text.text: text for text in root.findall("{*}text")}
    assert "not counted" in texts
    assert texts["late"].attrib["text-anchor"] == "end"


def test_a_picture_of_nothing_is_one() -> None:
    ElementTree.fromstring(svg([]))
