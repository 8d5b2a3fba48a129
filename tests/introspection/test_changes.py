"""Every change of a child's state is logged once, with its reason, and counted."""

from __future__ import annotations

import logging

import pytest

from hierarchy.introspection.changes import ChangeLog
from hierarchy.registry.health import Change
from hierarchy.runtime.exposition import render
from hierarchy.runtime.metrics import Metrics
from tests.builders import OPENAI, Table, model, site, status_of


class Watched(Table):
    """A table whose changes are recorded, logged and counted."""

    def __init__(self, engines: int = 3) -> None:
        super().__init__()
        self.metrics = Metrics()
        self.seen: list[tuple[str, str, str]] = []
        log = ChangeLog(self.metrics)

        def note(change: Change) -> None:
            self.seen.append((change.child.name, change.model, change.state))
            log.note(change)

        self.on_change = note
        self.engines = [self.declare(f"e{number}", f"http://e{number}:1", "vllm") for number in range(engines)]
        for engine in self.engines:
            self.report(engine, status_of(model("m"), model("n")))
        self.seen.clear()


def test_a_suspicion_and_its_end_are_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hierarchy.health")
    table = Watched()
    first = table.engines[0]
    for _ in range(3):
        table.suspect(first, "it has not answered a probe for 3 s")
        table.sweep()
    table.trust(first)
    table.trust(first)
    table.sweep()
    assert table.seen == [("e0", "", "suspect"), ("e0", "", "up")]
    assert [record.getMessage() for record in caplog.records] == [
        "e0 is suspect: it has not answered a probe for 3 s",
        "e0 is up again, was suspect",
    ]
    assert table.metrics.state_changes[("e0", "", "suspect")] == 1


def test_the_ejection_of_one_model_names_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hierarchy.health")
    table = Watched()
    for _ in range(3):
        table.failed(table.engines[0].shares[OPENAI], "error", "answered 500")
    assert table.seen == [("e0", "m", "ejected")]
    assert table.available_names() == {"e1", "e2"}
    assert table.available_names(("n", "openai")) == {"e0", "e1", "e2"}
    table.clock.tick(2.0)
    table.sweep()
    assert table.seen[1:] == [("e0", "m", "up")]
    assert [record.getMessage() for record in caplog.records] == [
        "e0, model m, is ejected: answered 500",
        "e0, model m, is up again, was ejected",
    ]
    assert b'hierarchy_child_state_changes_total{child="e0",model="m",state="ejected"} 1.0' in render(table.metrics)


def test_a_node_that_falls_silent_and_comes_back_is_noted() -> None:
    table = Watched()
    table.add(site("site-a"))
    table.sweep()
    table.clock.tick(3.0)
    table.sweep()
    table.add(site("site-a", seq=5))
    table.sweep()
    assert table.seen == [("site-a", "", "up"), ("site-a", "", "silent"), ("site-a", "", "up")]


def test_an_engine_that_sleeps_gets_nothing_new_and_is_not_reported() -> None:
    table = Watched(1)
    table.set_asleep(table.engines[0], True)
    assert table.seen == [("e0", "", "asleep")]
    assert not table.available(OPENAI)
    assert table.model_names() == []
    assert table.listed("m")
    table.set_asleep(table.engines[0], False)
    assert table.available_names() == {"e0"}


def test_a_model_that_is_served_through_both_apis_is_named_with_the_one_that_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = Watched()
    for engine in table.engines:
        table.report(engine, status_of(model("m"), model("m", api="fastchat")))
    for _ in range(3):
        table.failed(table.engines[0].shares[OPENAI], "error", "answered 500")
    assert caplog.messages == ["e0, model m through the openai API, is ejected: answered 500"]
