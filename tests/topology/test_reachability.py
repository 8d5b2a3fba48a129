"""Subnets and reach: who can dial whom, and the problems of edges that cannot work."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from hierarchy.topology.reachability import Reach, parse_reach
from tests.trees import from_text, problems_of

TREE = """\
version: 1
subnets: {{dmz: 10.0.0.0/24, lab: 10.1.0.0/24, far: "fd00::/64"}}
reach: {reach}
nodes:
  root: {root}
  site: {site}
engines:
  e: {engine}
"""
ROOT = '{listen: "10.0.0.10:1"}'
SITE = '{parent: root, listen: "10.1.0.1:1"}'
ENGINE = '{parent: site, kind: vllm, url: "http://10.1.0.11:8000"}'
BOTH = "[[lab, dmz], [dmz, lab]]"


def problems_with(
    folder: Path, reach: str = BOTH, root: str = ROOT, site: str = SITE, engine: str = ENGINE
) -> list[str]:  # fmt: skip
    """The problems of TREE with these parts."""
    return problems_of(from_text(folder, TREE.format(reach=reach, root=root, site=site, engine=engine)))


@pytest.mark.parametrize(
    ("sources", "targets", "verdict"),
    [
        ({"a"}, {"a"}, True),
        ({"a"}, {"b"}, True),
        ({"b"}, {"a"}, False),
        ({"b", "a"}, {"b"}, True),
        ({"c"}, {"a", "b"}, False),
        ({"c", "a"}, {"b"}, True),
        (set(), {"a"}, None),
        ({"a"}, set(), None),
    ],
)
def test_reach_allows_only_its_pairs(sources: set[str], targets: set[str], verdict: bool | None) -> None:
    assert Reach(frozenset("abc"), {}, frozenset({("a", "b")})).allows(sources, targets) is verdict


def test_invalid_subnets_and_reach() -> None:
    subnets = {"a": "10.0.0.0/24", "b": "10.0.0.128/25", "c": "10.0.1.7/24", "d": "words", "e": "fd00::/64"}
    reach, findings = parse_reach(subnets, [("a", "e"), ("e", "aa"), ("a", "d")])
    assert findings == [
        (("subnets", "c"), "'10.0.1.7/24' is not a subnet (10.0.1.7/24 has host bits set)", 'write "10.0.1.0/24"'),
        (
            ("subnets", "d"),
            "'words' is not a subnet ('words' does not appear to be an IPv4 or IPv6 network)",
            'write it as "10.0.0.0/24"',
        ),
        (("subnets", "b"), '10.0.0.128/25 overlaps with 10.0.0.0/24 ("a")', "make them disjoint"),
        (("reach", 1), 'unknown subnet "aa"', 'did you mean "a"?'),
    ]
    assert reach.networks["e"] == ipaddress.ip_network("fd00::/64")
    assert reach.pairs == {("a", "e"), ("a", "d")}


def test_an_edge_that_both_ends_may_dial_has_no_problem(tmp_path: Path) -> None:
    assert problems_with(tmp_path) == []


def test_an_edge_that_only_the_child_may_dial_needs_a_reverse_link(tmp_path: Path) -> None:
    assert problems_with(tmp_path, "[[lab, dmz]]") == [
        "6: nodes.site.parent: root (dmz) cannot dial site (lab); "
        "add [dmz, lab] to `reach`, or set `link: reverse`, since site may dial root"
    ]
    for link in ("reverse", "auto"):
        assert problems_with(tmp_path, "[[lab, dmz]]", site=SITE.replace("}", f", link: {link}}}")) == []


def test_an_edge_that_only_the_parent_may_dial_is_a_problem(tmp_path: Path) -> None:
    expected = ["6: nodes.site.parent: site (lab) cannot dial root (dmz) to register; add [lab, dmz] to `reach`"]
    assert problems_with(tmp_path, "[[dmz, lab]]") == expected
    assert problems_with(tmp_path, "[[dmz, lab]]", site=SITE.replace("}", ", link: reverse}")) == expected


def test_an_edge_that_neither_end_may_dial_is_a_problem(tmp_path: Path) -> None:
    assert problems_with(tmp_path, "[]") == [
        "6: nodes.site.parent: site (lab) cannot dial root (dmz) to register, nor the other way round; "
        "add [lab, dmz] to `reach`, and also [dmz, lab] or `link: reverse`"
    ]


def test_a_node_must_be_able_to_dial_its_engines(tmp_path: Path) -> None:
    engine = '{parent: root, kind: vllm, url: "http://10.1.0.11:8000"}'
    own = "\n  e2: {parent: site, kind: simulated}"
    assert problems_with(tmp_path, "[[dmz, lab], [lab, dmz]]", engine=engine + own) == []
    (_, problem) = problems_with(tmp_path, "[[lab, dmz]]", engine=engine + own)
    assert problem == "8: engines.e.parent: root (dmz) cannot dial e (lab); add [dmz, lab] to `reach`"


@pytest.mark.parametrize(
    "site",
    [
        '{parent: root, listen: ["10.1.0.1:1", "10.0.0.20:1"]}',  # an address in each
        '{parent: root, listen: ["localhost:1", "10.1.0.1:1"], advertise: "http://10.0.0.20:1"}',
        '{parent: root, listen: "site.example:1"}',  # of an unknown subnet
        '{parent: root, listen: "192.168.0.1:1"}',  # in no declared subnet
        '{parent: root, listen: "10.1.0.1:1", subnet: dmz}',  # declared
    ],
)
def test_edges_that_are_valid_without_any_reach(tmp_path: Path, site: str) -> None:
    engine = "{parent: site, kind: simulated}"
    assert problems_with(tmp_path, "[]", site=site, engine=engine) == []


@pytest.mark.parametrize(
    "site",
    [
        '{parent: root, listen: "0.0.0.0:1", advertise: "http://10.1.0.1:1"}',
        '{parent: root, listen: "[fd00::7]:1"}',
        '{parent: root, listen: "site.example:1", subnet: lab}',
        '{parent: root, listen: ["localhost:1", "10.1.0.1:1"]}',  # another machine, as the second address shows
    ],
)
def test_edges_that_are_invalid_without_any_reach(tmp_path: Path, site: str) -> None:
    (problem,) = problems_with(tmp_path, "[]", site=site, engine="{parent: site, kind: simulated}")
    assert "6: nodes.site.parent: site (" in problem
    assert "cannot dial root (dmz) to register, nor the other way round" in problem
    assert "unknown" not in problem


def test_a_parent_in_two_subnets_is_dialled_in_either(tmp_path: Path) -> None:
    assert problems_with(tmp_path, "[]", root='{listen: ["10.0.0.10:1", "10.1.0.2:1"]}') == []


def test_an_explicit_advertise_is_what_the_parent_must_dial(tmp_path: Path) -> None:
    site = '{parent: root, listen: ["10.1.0.1:1", "10.0.0.20:1"], advertise: "http://10.1.0.1:1"}'
    (problem,) = problems_with(tmp_path, "[]", site=site)
    assert "root (dmz) cannot dial site (dmz and lab)" in problem


def test_an_unknown_subnet_of_a_node_is_a_problem(tmp_path: Path) -> None:
    (problem,) = problems_with(tmp_path, site='{parent: root, listen: "10.1.0.1:1", subnet: labb}')
    assert problem == '6: nodes.site.subnet: unknown subnet "labb"; did you mean "lab"?'
