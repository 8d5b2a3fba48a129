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


# -- slots -----------------------------------------------------------------------------------------------------------


def slots(table: Table) -> dict[str, int]:
    return {child.name: child.shares[OPENAI].slots for child in table}


def add_slots(table: Table, name: str, count: int, speed: float = 1.0) -> Child:
    row = model(speed=speed, slots=count)
    message = site(name, row, url=f"http://{name}:21001", instance=f"{name}-1", path=[f"{name}-1"])
    return table.add(message)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("policy", ["shortest_queue", "p2c"])
def test_a_child_with_a_million_slots_does_not_draw_everything(policy: str, first: bool) -> None:
    table = Table()
    for name in ["liar"] * first + ["a", "b", "c"] + ["liar"] * (not first):
        add_slots(table, name, 10**6 if name == "liar" else 8)
    table.sweep()
    assert slots(table) == {"liar": 0, "a": 8, "b": 8, "c": 8}
    assert table.status().models[0].slots == 0  # so the parent is not told of a million slots
    choose, rng = POLICIES[policy](), Random(1)
    taken = [choose(Candidates(table.available(OPENAI)), rng).child for _ in range(1)]
    for _ in range(400):
        child = choose(Candidates(table.available(OPENAI)), rng).child
        child.lease(child.shares[OPENAI])
        taken.append(child)
    assert sum(child.name == "liar" for child in taken) / len(taken) == pytest.approx(0.25, abs=0.05)


def test_slots_are_compared_for_each_unit_of_speed(caplog: pytest.LogCaptureFixture) -> None:
    table = Table()
    add_slots(table, "small", 8)
    add_slots(table, "large", 800, speed=10.0)
    table.sweep()
    assert slots(table) == {"small": 8, "large": 800}
    wide = add_slots(table, "wide", 810)
    add_slots(table, "other", 8)
    table.sweep()
    assert slots(table) == {"small": 8, "large": 800, "wide": 0, "other": 8}
    assert caplog.text.count("wide reports 810 slots for each unit of speed: they count as unknown") == 1
    warnings = TreeView(table, table.clock).tree()["children"]["wide"]["warnings"]
    assert warnings == [
        "it reports 810 slots for each unit of speed, which do not count: more than ten times the median of its "
        "siblings"
    ]
    assert table.receive(report("wide", model(slots=16), url=wide.url, seq=2))
    table.sweep()
    assert slots(table)["wide"] == 16
    assert not wide.is_wide


def test_speed_that_does_not_count_brings_no_slots() -> None:
    table = Table()
    for name in "abc":
        add_slots(table, name, 8)
    add_slots(table, "liar", 8 * 10**6, speed=1e6)
    table.sweep()
    assert (counted(table)["liar"], slots(table)["liar"]) == (10.0, 0)


def test_slots_of_an_engine_that_is_declared_are_the_operators_word() -> None:
    table = Table()
    for name, count in (("a", 4), ("b", 4), ("vllm", 256)):
        table.report(table.declare(name, f"http://{name}:1", "vllm"), status_of(model(slots=count)))
    table.sweep()
    assert slots(table) == {"a": 4, "b": 4, "vllm": 256}
    assert table.status().models[0].slots == 264


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([0.5, 1.0, 4.0])), min_size=1, max_size=6))
def test_the_sum_of_slots_is_known_if_all_are(rows: list[tuple[int, float]]) -> None:
    table = Table()
    for number, (count, speed) in enumerate(rows):
        engine = table.declare(f"e{number}", f"http://e{number}:1", "vllm")
        table.report(engine, status_of(model(speed=speed, slots=count)))
    total = table.status().models[0].slots
    assert total == (sum(count for count, _ in rows) if all(count for count, _ in rows) else 0)
    for number, (count, speed) in enumerate(rows):  # and again where each has changed once
        status = status_of(model(speed=speed, slots=count + 1))
        table.report(table.children[f"e{number}"], status)
    assert table.status().models[0].slots == sum(count + 1 for count, _ in rows)
