"""Who is here, who was lately, and what they list."""

from __future__ import annotations

import pytest

from hierarchy.registry import REMEMBERED_S
from tests.builders import OPENAI, Table, model, report, site


@pytest.fixture
def table() -> Table:
    return Table()


def test_one_sweep_divides_the_capacity_of_every_group(table: Table) -> None:
    for group in ("a", "b"):
        for number in range(2):
            url = f"http://{group}-{number}"
            message = site(group, model(speed=4.0), url=url, instance=url, replica=True, interval_s=1.0)
            table.add(message)
    assert table.status().speed == 8.0
    table.clock.tick(2.9)
    for group in ("a", "b"):
        url = f"http://{group}-0"
        table.receive(report(group, model(speed=4.0), url=url, instance=url, interval_s=1.0, seq=2))
    table.clock.tick(1.0)
    assert table.status().speed == 4.0
    table.sweep()
    assert table.status().speed == 8.0


def test_only_so_many_children_that_left_are_shown(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hierarchy.registry.membership.MAX_DEPARTED", 3)
    for name in ("a", "b", "c", "a", "d"):
        table.add(site(name))
        table.depart(name)
    assert list(table.departed) == ["c", "a", "d"]


def test_what_is_gone_is_remembered_as_long_as_the_configuration_says(table: Table) -> None:
    table.remember(5.0)
    table.add(site())
    table.depart("site-a")
    table.clock.tick(4.9)
    table.sweep()
    assert set(table.departed) == {"site-a"}
    table.clock.tick(5.1)
    table.sweep()
    assert (table.departed, table.absence(OPENAI)) == ({}, None)


def test_the_models_below_a_node_are_listed_whether_they_are_available_or_not(table: Table) -> None:
    gpu = {"kind": "vllm", "state": "down", "models": [{"name": "below", "api": "openai"}]}
    table.add(site(children={"gpu": gpu}))
    table.receive(report(seq=2))
    assert table.listed("below")
    assert table.listed("below", "openai")
    assert not table.listed("below", "fastchat")
    table.receive(report(seq=3, children={"gpu": None}))
    assert not table.listed("below")


def test_the_models_of_a_child_that_left_are_listed_while_it_is_remembered(table: Table) -> None:
    gpu = {"kind": "vllm", "state": "down", "models": [{"name": "below", "api": "openai"}]}
    table.add(site(children={"gpu": gpu}))
    table.depart("site-a")
    assert (table.listed("m"), table.listed("below")) == (True, True)
    table.clock.tick(REMEMBERED_S)
    table.sweep()
    assert (table.listed("m"), table.listed("below")) == (False, False)
    table.add(site())
    assert (table.listed("m"), table.listed("below")) == (True, False)


def test_a_late_deregistration_does_no_harm(table: Table) -> None:
    child = table.add(site())
    table.add(site(instance="site-a-2"))
    assert table.remove("site-a", "site-a-1") is None
    assert table.available_names() == {"site-a"}
    assert table.remove("site-a", "site-a-2") is child
    assert table.remove("site-a", "site-a-2") is None
    assert table.available_names() == set()


def test_children_are_found_by_name_or_address(table: Table) -> None:
    child = table.add(site())
    assert table.find("site-a") is table.find("http://site-a:21001/") is child
    assert table.find("http://unknown") is None
