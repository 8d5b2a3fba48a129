"""What the children can be chosen for."""

from __future__ import annotations

import pytest

from hierarchy.registry.candidates import AT_ONCE
from hierarchy.registry.membership import LARGE
from hierarchy.registry.model_index import AT_ONCE as AT_ONCE_TAKEN_IN
from hierarchy.runtime.steps import at_once
from hierarchy.wire.status import ModelKey, aggregate
from tests.builders import OPENAI, Table, model, report, site, status_of, worker


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_silent_node_from_which_bytes_arrive_is_available_again(table: Table) -> None:
    child = table.add(site(interval_s=1.0))
    table.clock.tick(4.0)
    assert table.available_names() == set()
    child.received += 1
    table.sweep()
    assert table.available_names() == {"site-a"}
    table.receive(report(interval_s=1.0))
    assert table.available_names() == {"site-a"}


def test_candidates_that_changed_are_not_kept(table: Table) -> None:
    table.add(site())
    shares = table.available(OPENAI)
    assert table.are_current(OPENAI, shares)
    table.forget_candidates()
    assert table.available(OPENAI) is shares
    table.depart("site-a")
    table.forget_candidates()
    assert not table.are_current(OPENAI, shares)
    assert table._available == {}


def test_a_sum_keeps_no_child_that_is_gone_although_nothing_asks_for_it(table: Table) -> None:
    table.add(site())
    assert table.status().models
    table.depart("site-a")
    table.forget_candidates()  # it was asked since the last time
    table.forget_candidates()
    assert repr(table._totals) == "<Totals of 0 children, 0 models>"
    table.add(site("site-b", model("m")))
    assert [row.name for row in table.status().models] == ["m"]


def test_an_engine_that_recovers_unchanged_is_chosen_again_at_once(table: Table) -> None:
    engine = table.declare("gpu", "http://gpu:1", "vllm")
    for _ in range(3):
        table.report(engine, status_of(model()))
        assert table.available_names() == {"gpu"}
        table.mark_down(engine, "refused")
        assert table.available_names() == set()


def test_multimodal_workers_are_listed_separately(table: Table) -> None:
    table.add(worker(models=["llava"], multimodal=True))
    table.add(worker("http://w2:1", models=["vicuna"]))
    assert table.names_by_mode(multimodal=True) == ["llava"]
    assert table.names_by_mode(multimodal=False) == ["vicuna"]
    assert table.model_names() == ["llava", "vicuna"]


def test_names_are_found_in_steps_and_again_if_something_happens_meanwhile(table: Table) -> None:
    for number in range(3 * AT_ONCE):
        table.add(site(f"site-{number}", model(f"m{number:03d}")))
    steps = table.model_names_steps()
    next(steps)
    table.remove("site-7")
    found = at_once(steps)
    assert len(found) == 3 * AT_ONCE  # as it was at the first step
    assert table.model_names() == [name for name in found if name != "m007"]
    assert table.names_by_mode(multimodal=False) == table.model_names()
    assert sum(1 for _ in table.names_by_mode_steps(multimodal=False)) == len(table)
    assert table.has_available(found[0])
    assert not table.has_available("m007")
    table.clock.tick(3)  # all are silent
    assert not table.has_available(found[0])
    assert table.model_names() == table.names_by_mode(multimodal=False) == []


class Large:
    """A table that takes in the models of large children when `run` is called."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.calls = 0
        table.take_in_later = self.later

    def later(self) -> None:
        self.calls += 1

    def run(self) -> int:
        """Returns the number of steps."""
        return sum(1 for _ in self.table.status_steps())


MANY = [model(f"m{number:04d}") for number in range(2 * LARGE)]
LAST: ModelKey = ("m1999", "openai")


def test_what_a_large_child_lists_is_taken_in_in_steps_and_what_waits_for_it_hears_of_it(table: Table) -> None:
    large, heard = Large(table), list[str]()
    table.subscribe(lambda child: heard.append(child.name))
    table.add(site("site-a", *MANY))
    table.add(site("site-b", model("m0000")))
    assert table.available_names(("m0000", "openai")) == {"site-b"}, "a small one is not kept waiting"
    assert large.calls == 1
    assert table.available(LAST) == []
    heard.clear()
    assert large.run() > 2 * LARGE // AT_ONCE_TAKEN_IN
    assert heard == ["site-a"]
    assert table.available_names(LAST) == {"site-a"}
    assert table.available_names(("m0000", "openai")) == {"site-a", "site-b"}
    assert len(table.status().models) == 2 * LARGE
    assert table.status() == aggregate(child.current(table.clock()) for child in table)


def test_a_large_child_that_goes_is_never_chosen_again(table: Table) -> None:
    table.add(site("site-a", *MANY))
    table.model_names()
    large = Large(table)
    child = table.remove("site-a")
    assert child is not None
    assert table.available(LAST) == table.last_resort(LAST) == []
    assert table.model_names() == []
    large.run()
    assert not table.listed("m1999")
    assert table.status().models == ()


@pytest.mark.parametrize("stop", range(0, 12, 3))
def test_what_happens_meanwhile_is_taken_in_as_well(table: Table, stop: int) -> None:
    large = Large(table)
    child = table.add(site("site-a", *MANY))
    steps = table.take_in_steps()
    for _ in range(stop):
        next(steps, None)
    table.receive(report("site-a", *MANY[LARGE:], model("new"), seq=2))
    table.add(site("site-b", model("m0000")))
    at_once(steps)
    large.run()
    assert table.index.order == sorted({key for one in table for key in one.shares})
    assert table.available(LAST) == [child.shares[LAST]]
    assert table.available_names(("m0000", "openai")) == {"site-b"}
    assert table.status() == aggregate(one.current(table.clock()) for one in table)
    table.depart("site-a")
    large.run()
    assert table.model_names() == ["m0000"]
    assert table.listed("m1999")


def test_steps_that_never_end_are_begun_again_by_the_next_sweep(table: Table) -> None:
    large = Large(table)
    table.add(site("site-a", *MANY))
    steps = table.take_in_steps()
    next(steps)
    steps.close()
    table.sweep()
    large.run()
    assert table.available_names(LAST) == {"site-a"}
    assert table.index.order == sorted(table.children["site-a"].shares)
    table.remove("site-a")
    large.run()
    assert not table.listed("m1999")
