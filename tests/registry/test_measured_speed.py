"""Engines have the speed that is measured; a node whose requests are much slower than its siblings' counts less."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hierarchy.introspection.tree import TreeView
from hierarchy.registry.child import Child
from hierarchy.registry.rates import DECODE, PREFILL, Rates
from tests.builders import OPENAI, Table, model, report, site, status_of


def engine(table: Table, name: str, start: float = 1.0) -> Child:
    child = table.declare(name, f"http://{name}:1", "vllm")
    child.start_speed = start
    table.report(child, status_of(model(speed=start)))
    return child


def write(child: Child, speed: float, streams: int = 200, key: tuple[str, str] = OPENAI) -> None:
    rates = child.shares[key].rates  # type: ignore[index]
    assert rates is not None
    for _ in range(streams):
        rates.note_end(100, 100 / (speed * DECODE))


def test_an_engine_starts_at_its_declared_speed_and_gets_the_measured_one() -> None:
    table = Table()
    slow, fast, declared = engine(table, "slow"), engine(table, "fast", 2.0), table.declare("d", "http://d:1", "vllm")
    table.report(declared, status_of(model(speed=1.5)))
    assert [child.shares[OPENAI].speed for child in table] == [1.0, 2.0, 1.5]
    assert declared.shares[OPENAI].rates is None
    write(slow, 0.5)
    write(fast, 4.0)
    shares = table.available(OPENAI)
    for child in (slow, fast):
        table.report(child, status_of(model(speed=child.start_speed)))
    assert table.available(OPENAI) is not shares  # policies remember the speeds of a list
    assert [child.shares[OPENAI].speed for child in table] == pytest.approx([0.5, 4.0, 1.5], rel=0.1)
    row = table.status().models[0]
    assert row.speed == pytest.approx(0.5 + 4.0 + 1.5, rel=0.1)
    assert row.prefill == 0.0
    assert row.decode == pytest.approx(25.0 + 200.0, rel=0.1)
    shown = TreeView(table, table.clock).tree()
    assert shown["models"][0]["decode"] == row.decode
    assert "decode" not in shown["children"]["d"]["models"][0]


def test_each_model_of_an_engine_has_its_own_speed() -> None:
    table = Table()
    child = table.declare("gpu", "http://gpu:1", "ollama")
    child.start_speed = 1.0
    both = status_of(model("m"), model("n"))
    table.report(child, both)
    write(child, 3.0)
    write(child, 0.2, key=("n", "openai"))
    table.report(child, both)
    assert [share.speed for share in child.shares.values()] == pytest.approx([3.0, 0.2], rel=0.1)
    assert child.status.speed == pytest.approx(3.0, rel=0.1)


def test_a_speed_that_hardly_changes_makes_nobody_look_again() -> None:
    table = Table()
    child = engine(table, "gpu")
    table.sweep()
    before, shares = table.generation, table.available(OPENAI)
    write(child, 1.05)
    for _ in range(5):
        table.report(child, status_of(model()))
        table.sweep()
    assert (table.generation, table.available(OPENAI)) == (before, shares)


# -- nodes -----------------------------------------------------------------------------------------------------------


def sites(claims: Sequence[float]) -> Table:
    """Nodes that measure their engines, and claim these speeds."""
    table = Table()
    for number, speed in enumerate(claims):
        name = f"s{number}"
        row = model(speed=speed, prefill=speed * PREFILL, decode=speed * DECODE)
        table.add(site(name, row, url=f"http://{name}:1", instance=f"{name}-1", path=[f"{name}-1"]))
    table.sweep()
    return table


def counted(table: Table) -> list[float]:
    table.sweep()
    return [child.shares[OPENAI].speed for child in table]


def test_nodes_are_measured_where_they_report_measured_speeds() -> None:
    table = sites([4.0])
    declared = table.add(site("old", model(speed=4.0), url="http://old:1", instance="o-1", path=["o-1"]))
    assert table.children["s0"].shares[OPENAI].rates is not None
    assert declared.shares[OPENAI].rates is None


def test_a_child_that_claims_too_much_gains_by_it_only_until_its_requests_are_slow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = sites([4.0, 4.0, 4.0, 32.0])
    assert counted(table) == [4.0, 4.0, 4.0, 32.0]
    for child in table:  # it has eight times the requests that it can serve, so each is eight times as slow
        write(child, 1 / 8 if child.name == "s3" else 1.0)
    assert counted(table) == [4.0, 4.0, 4.0, 16.0]
    write(table.children["s3"], 1 / 30)
    assert counted(table) == [4.0, 4.0, 4.0, 4.0]
    assert caplog.text.count("requests to s3 take more than four times as long as those to its siblings") == 1
    assert "of its speed 32 counts 4" in TreeView(table, table.clock).tree()["children"]["s3"]["warnings"][0]
    table.receive(report("s3", model(speed=64.0, prefill=1.0, decode=1.0), url="http://s3:1", seq=2))
    assert counted(table)[3] == 8.0  # an eighth of that
    write(table.children["s3"], 1.0)
    assert counted(table)[3] == 40.0


def test_honest_children_of_different_speeds_all_count_in_full() -> None:
    table = sites([4.0, 1.0, 8.0])
    for child, speed in zip(table, (1.0, 0.4, 2.0), strict=True):
        write(child, speed)
    assert counted(table) == [4.0, 1.0, 8.0]


def test_few_requests_prove_nothing_and_a_child_alone_is_compared_with_nobody() -> None:
    table = sites([4.0, 4.0])
    write(table.children["s0"], 1.0)
    write(table.children["s1"], 0.01, streams=10)
    assert counted(table) == [4.0, 4.0]
    alone = sites([4.0])
    write(alone.children["s0"], 0.001)
    assert counted(alone) == [4.0]


def test_a_node_reads_several_prompts_at_once() -> None:
    rates = Rates(1.0, one_reader=False)
    for number in range(200):
        rates.note_first(16_000, number * 0.01, number * 0.01 + 4000 / PREFILL)
    assert rates.prefill.value == pytest.approx(PREFILL, rel=0.1)
