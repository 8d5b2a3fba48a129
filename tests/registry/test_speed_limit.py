"""A registered child counts as ten times as fast as the median of the others, at most."""

from __future__ import annotations

import statistics
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.balancing.candidates import Candidates
from hierarchy.balancing.policy import POLICIES
from hierarchy.introspection.tree import TreeView
from hierarchy.registry.child import Child
from hierarchy.registry.speed_limit import SpeedLimit
from tests.builders import OPENAI, Table, model, report, site, status_of, worker


def add(table: Table, name: str, speed: float, **fields: Any) -> Child:
    message = site(name, model(speed=speed), url=f"http://{name}:21001", instance=f"{name}-1", path=[f"{name}-1"])
    return table.add({**message, **fields})


def counted(table: Table) -> dict[str, float]:
    return {child.name: child.shares[OPENAI].speed for child in table}


@pytest.mark.parametrize("first", [True, False])
def test_a_child_that_claims_a_million_does_not_draw_everything(first: bool) -> None:
    table = Table()
    for name in ["liar"] * first + ["a", "b", "c"] + ["liar"] * (not first):
        add(table, name, 1e6 if name == "liar" else 1.0)
    table.sweep()
    assert counted(table) == {"liar": 10.0, "a": 1.0, "b": 1.0, "c": 1.0}
    assert table.status().speed == 13.0
    shares, rng = table.available(OPENAI), Random(1)
    chosen = [POLICIES["lottery"]()(Candidates(shares), rng).child.name for _ in range(2000)]
    assert chosen.count("liar") / 2000 == pytest.approx(10 / 13, abs=0.05)


def test_what_it_reports_later_is_limited_too(caplog: pytest.LogCaptureFixture) -> None:
    table = Table()
    liar = add(table, "liar", 1.0)
    add(table, "a", 1.0)
    table.sweep()
    for seq in (1, 2, 3):
        assert table.receive(report("liar", model(speed=1e6), url=liar.url, seq=seq + 1))
        table.sweep()
    assert counted(table)["liar"] == 10.0
    assert caplog.text.count("liar reports speed 1e+06: it counts as 10") == 1
    warnings = TreeView(table, table.clock).tree()["children"]["liar"]["warnings"]
    assert warnings == [
        "it reports speed 1e+06, which counts as 10, ten times the median of its siblings; see `max_speed`"
    ]


def test_an_honest_large_site_counts_in_full_among_its_like() -> None:
    table = Table()
    for name, speed in {"a": 40.0, "b": 64.0, "c": 8.0, "small": 1.0}.items():
        add(table, name, speed)
    table.sweep()
    assert counted(table) == {"a": 40.0, "b": 64.0, "c": 8.0, "small": 1.0}


def test_the_limit_follows_the_other_children() -> None:
    table = Table()
    add(table, "big", 50.0)
    table.sweep()
    assert counted(table) == {"big": 50.0}, "alone, it draws nothing from anybody"
    add(table, "a", 1.0)
    table.sweep()
    assert counted(table)["big"] == 10.0
    for name in ("b", "c", "d"):
        add(table, name, 20.0)
    table.sweep()
    assert counted(table)["big"] == 50.0


def test_children_without_models_do_not_lower_it() -> None:
    table = Table()
    for name in ("x", "y", "z"):
        idle = {"model_names": [], "speed": 0.0, "queue_length": 0}
        table.add({**site(name), "worker_status": idle, "models": []})
    for name in ("a", "b"):
        add(table, name, 4.0)
    table.sweep()
    assert counted_of(table, "a") == 4.0
    assert table.speeds.of(table.children["a"]) == 40.0


def counted_of(table: Table, name: str) -> float:
    return table.children[name].shares[OPENAI].speed


def test_replicas_have_one_vote_and_their_parts_are_limited_together() -> None:
    table = Table()
    for number in range(4):
        fields = {"instance": f"r-{number}", "path": [f"r-{number}"], "replica": True}
        add(table, "r", 1e6, url=f"http://r{number}:1", worker_name=f"http://r{number}:1", **fields)
    add(table, "a", 1.0)
    table.sweep()
    table.sweep()
    assert sum(child.shares[OPENAI].speed for child in table if child.group == "r") == pytest.approx(10.0)
    assert counted_of(table, "a") == 1.0


def test_workers_are_limited_and_configured_engines_are_not() -> None:
    table = Table()
    engine = table.declare("gpu", "http://gpu:1", "vllm")
    table.report(engine, status_of(model(speed=500)))
    small = table.declare("gpu-2", "http://gpu2:1", "vllm")
    table.report(small, status_of(model(speed=1)))
    third = table.declare("gpu-3", "http://gpu3:1", "vllm")
    table.report(third, status_of(model(speed=1)))
    fastchat = table.add(worker(speed=1e6))
    table.sweep()
    assert engine.status.speed == 500.0
    assert fastchat.status.speed == 10.0
    table.report(fastchat, status_of(model(api="fastchat", speed=1e6)))
    assert fastchat.status.speed == 10.0, "also what it answers when it is asked"


def test_a_limit_in_the_configuration_refuses_and_compares_nothing() -> None:
    table = Table()
    table.set_max_speed(1000.0)
    add(table, "big", 900.0)
    add(table, "a", 1.0)
    table.sweep()
    assert counted(table) == {"big": 900.0, "a": 1.0}
    table.set_max_speed(None)
    add(table, "b", 1.0)
    table.sweep()
    assert counted(table)["big"] == 10.0
    table.set_max_speed(1000.0)
    table.sweep()
    assert counted(table)["big"] == 900.0


@given(st.lists(st.floats(min_value=0.01, max_value=1e6), min_size=1, max_size=12))
def test_the_limit_is_ten_times_the_median_of_the_others(speeds: list[float]) -> None:
    children = []
    for number, speed in enumerate(speeds):
        child = Child(f"c{number}", "http://c:1", "node")
        child.claimed, child.status = speed, status_of(model(speed=speed))
        children.append(child)
    limit = SpeedLimit()
    limit.note(children)
    for number, child in enumerate(children):
        others = speeds[:number] + speeds[number + 1 :]
        assert limit.of(child) == (pytest.approx(10 * statistics.median(others)) if others else float("inf"))
