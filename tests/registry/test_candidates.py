"""What the children can be chosen for."""

from __future__ import annotations

import pytest

from hierarchy.registry.candidates import AT_ONCE
from hierarchy.runtime.steps import at_once
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
    table.forget_candidates()
    assert repr(table._totals) == "<Totals of 0 children, 0 models>"


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
    table.clock.tick(3)  # all are silent
    assert table.model_names() == table.names_by_mode(multimodal=False) == []


def test_what_children_list_is_taken_in_before_the_sum_is_made(table: Table) -> None:
    """In two steps, since each may take long where thousands of models appear at once."""
    table.add(site("site-a", model("m")))
    assert table.take_in()
    assert [key[0] for key in table.index.order] == ["m"]
    assert not table.take_in()
