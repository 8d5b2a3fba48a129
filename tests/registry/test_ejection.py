"""When a child is ejected, and how it returns: the state alone, then through the registry."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hierarchy.registry.child import Child, Lease
from hierarchy.registry.ejection import BASE_S, FORGET_AFTER_S, FULL_WINDOW, MAX_S, Failure, FailureRecord, ejection_s
from tests.builders import OPENAI, Table, model, site, status_of

FAILURES = get_args(Failure)


@pytest.mark.parametrize(("failure", "needed"), [("unreachable", 1), ("broke", 1), ("timeout", 1), ("error", 3)])
def test_how_many_failures_in_a_row_eject(failure: Failure, needed: int) -> None:
    record = FailureRecord()
    assert [record.failed(failure, 0.0) for _ in range(needed)] == [False] * (needed - 1) + [True]


def test_a_success_between_errors_prevents_an_ejection() -> None:
    record = FailureRecord()
    for _ in range(20):
        assert not record.failed("error", 0.0)
        assert not record.failed("error", 0.0)
        record.completed()


@pytest.mark.parametrize(("ejections", "seconds"), [(0, 2.0), (1, 4.0), (4, 32.0), (5, 60.0), (10**6, 60.0)])
def test_how_long_an_ejection_lasts(ejections: int, seconds: float) -> None:
    assert ejection_s(ejections) == seconds


def test_each_ejection_is_twice_as_long_up_to_a_limit() -> None:
    record, now, lengths = FailureRecord(), 0.0, []
    for _ in range(8):
        assert record.failed("broke", now)
        until = record.eject(now, 0)
        lengths.append(until - now)
        now = until + 0.5
    assert lengths == [BASE_S, 4.0, 8.0, 16.0, 32.0, MAX_S, MAX_S, MAX_S]
    now += FORGET_AFTER_S + 1
    assert record.failed("broke", now)
    assert record.eject(now, 0) - now == BASE_S


def test_failures_of_earlier_requests_do_not_lengthen_an_ejection() -> None:
    record = FailureRecord()
    assert record.failed("broke", 0.0)
    record.eject(0.0, 5)
    assert not any(record.failed("broke", 1.0) for _ in range(5))


@given(st.integers(0, 5))
def test_a_child_returns_with_one_request_then_two_then_four(old: int) -> None:
    """old: requests that still run from before the ejection."""
    record = FailureRecord()
    until = record.eject(0.0, old)
    rounds = []
    while record.returning:
        begun = 0
        while record.admits(old + begun):
            begun += 1
        rounds.append(begun)
        for _ in range(begun):
            record.first_byte(until)
    assert rounds == [1, 2, 4, 8]
    assert record.window == FULL_WINDOW


def test_a_failure_of_a_returning_child_ejects_it_at_once() -> None:
    record = FailureRecord()
    until = record.eject(0.0, 0)
    assert record.failed("error", until)


class Site(Table):
    """Engines e0 to e(n-1) that serve `m`."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.engines = [self.declare(f"e{number}", f"http://e{number}:1", "vllm") for number in range(count)]
        for engine in self.engines:
            self.report(engine, status_of(model()))


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_at_most_half_of_the_children_of_a_model_are_ejected(count: int, most: int) -> None:
    table = Site(count)
    for engine in table.engines:
        for _ in range(3):
            table.failed(engine.shares[OPENAI], "broke", "it broke")
    assert sum(engine.shares[OPENAI].is_ejected(table.clock()) for engine in table.engines) == most


def test_ejected_children_return_when_others_go_down() -> None:
    table = Site(4)
    for engine in table.engines[:2]:
        table.failed(engine.shares[OPENAI], "broke", "it broke")
    assert table.available_names() == {"e2", "e3"}
    table.mark_down(table.engines[2], "refused")
    assert len(table.available_names()) == 2
    table.mark_down(table.engines[3], "refused")
    assert len(table.available_names()) >= 1


def test_a_returning_child_that_is_the_only_one_is_not_limited() -> None:
    table = Site(2)
    table.failed(table.engines[0].shares[OPENAI], "broke", "it broke")
    table.mark_down(table.engines[1], "refused")
    table.clock.tick(BASE_S)
    leases = [table.available(OPENAI)[0].child.lease(table.available(OPENAI)[0]) for _ in range(5)]
    assert len(leases) == 5


def test_a_child_that_was_ejected_gets_one_request_first() -> None:
    table = Site(2)
    first = table.engines[0]
    table.failed(first.shares[OPENAI], "broke", "it broke")
    assert table.available_names() == {"e1"}
    table.clock.tick(BASE_S)
    assert table.available_names() == {"e0", "e1"}
    lease = first.lease(first.shares[OPENAI])
    assert table.available_names() == {"e1"}  # one at a time
    table.first_byte(first.shares[OPENAI])
    assert table.available_names() == {"e0", "e1"}
    lease.release()
    table.clock.tick(FORGET_AFTER_S + 1)
    for _ in range(FULL_WINDOW):
        table.first_byte(first.shares[OPENAI])
    table.sweep()
    assert first.failures is first.shares[OPENAI].failures is None


def test_a_new_process_of_a_child_starts_without_failures() -> None:
    table = Table()
    for name in ("site-a", "site-b"):
        table.add(site(name))
    child = table.children["site-a"]
    for _ in range(3):
        table.failed(child.shares[OPENAI], "unreachable", "refused")
        table.clock.tick(0.1)
    assert table.available_names() == {"site-b"}
    table.add(site("site-a", seq=9))  # the same process
    assert table.available_names() == {"site-b"}
    table.add(site("site-a", instance="site-a-2"))
    assert table.available_names() == {"site-a", "site-b"}
    assert child.failures is None
    assert not child.is_dead(table.clock())


class EjectionMachine(RuleBasedStateMachine):
    """In any order of events at least half of the children that are not down are available, and no lease is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Site(4)
        self.leases: list[tuple[Child, Lease]] = []

    engines = st.integers(0, 3)

    @rule(number=engines, failure=st.sampled_from(FAILURES))
    def fails(self, number: int, failure: Failure) -> None:
        self.table.failed(self.table.engines[number].shares[OPENAI], failure, "why")

    @rule(number=engines)
    def succeeds(self, number: int) -> None:
        share = self.table.engines[number].shares[OPENAI]
        share.responses.good += 1
        self.table.first_byte(share)
        self.table.completed(share)

    @rule(number=engines)
    def goes_down(self, number: int) -> None:
        self.table.mark_down(self.table.engines[number], "refused")

    @rule(number=engines)
    def comes_up(self, number: int) -> None:
        self.table.report(self.table.engines[number], status_of(model()))

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.table.clock.tick(seconds)
        self.table.sweep()

    @rule()
    def lease(self) -> None:
        for share in self.table.available(OPENAI):
            self.leases.append((share.child, share.child.lease(share)))

    @rule()
    def release(self) -> None:
        if self.leases:
            self.leases.pop()[1].release()

    @invariant()
    def at_least_half_are_available(self) -> None:
        now = self.table.clock()
        there = [engine for engine in self.table.engines if engine.down is None]
        assert 2 * sum(engine.state(now) == "ejected" for engine in there) <= len(there)
        assert not there or self.table.available(OPENAI)

    @invariant()
    def leases_add_up(self) -> None:
        for engine in self.table.engines:
            assert engine.in_flight == sum(child is engine for child, _ in self.leases)


EjectionMachine.TestCase.settings = settings()
TestEjection = EjectionMachine.TestCase
