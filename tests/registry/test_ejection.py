"""When a child is passed over, and how it comes back: the state alone, then through the registry."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hierarchy.registry.child import Child, Lease
from hierarchy.registry.ejection import BASE_S, FORGOTTEN_S, MAX_S, WELL, Failure, Trouble
from tests.builders import OPENAI, UNTIMED, Table, model, site, status_of

FAILURES = get_args(Failure)


@pytest.mark.parametrize(("failure", "needed"), [("unreachable", 1), ("broke", 1), ("timeout", 1), ("error", 3)])
def test_how_many_failures_in_a_row_eject(failure: Failure, needed: int) -> None:
    trouble = Trouble()
    assert [trouble.failed(failure, 0.0) for _ in range(needed)] == [False] * (needed - 1) + [True]


def test_a_success_between_errors_keeps_it() -> None:
    trouble = Trouble()
    for _ in range(20):
        assert not trouble.failed("error", 0.0)
        assert not trouble.failed("error", 0.0)
        trouble.succeeded(0.0)


def test_each_ejection_is_twice_as_long_up_to_a_limit() -> None:
    trouble, now, lengths = Trouble(), 0.0, []
    for _ in range(8):
        assert trouble.failed("broke", now)
        until = trouble.eject(now, 0)
        lengths.append(until - now)
        now = until + 0.5
    assert lengths == [BASE_S, 4.0, 8.0, 16.0, 32.0, MAX_S, MAX_S, MAX_S]
    now += FORGOTTEN_S + 1
    assert trouble.failed("broke", now)
    assert trouble.eject(now, 0) - now == BASE_S


def test_failures_of_requests_from_before_do_not_lengthen_it() -> None:
    trouble = Trouble()
    assert trouble.failed("broke", 0.0)
    trouble.eject(0.0, 5)
    assert not any(trouble.failed("broke", 1.0) for _ in range(5))


@given(st.integers(0, 5))
def test_one_request_then_two_then_four(old: int) -> None:
    """The return is slow, whatever old requests still run."""
    trouble = Trouble()
    until = trouble.eject(0.0, old)
    rounds = []
    while trouble.returning:
        begun = 0
        while trouble.admits(old + begun):
            begun += 1
        rounds.append(begun)
        for _ in range(begun):
            trouble.succeeded(until)
    assert rounds == [1, 2, 4, 8]
    assert trouble.window == WELL


def test_a_failure_on_the_way_back_ejects_at_once() -> None:
    trouble = Trouble()
    until = trouble.eject(0.0, 0)
    assert trouble.failed("error", until)


class Site(Table):
    """Engines e0 to e(n-1) that serve `m`."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.engines = [self.declare(f"e{number}", f"http://e{number}:1", "vllm") for number in range(count)]
        for engine in self.engines:
            self.report(engine, status_of(model()))


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_never_more_than_half_of_a_models_children(count: int, most: int) -> None:
    table = Site(count)
    for engine in table.engines:
        for _ in range(3):
            table.failed(engine, "broke", "it broke")
    assert sum(engine.state(table.clock()) == "ejected" for engine in table.engines) == most


def test_children_that_go_down_bring_ejected_ones_back() -> None:
    table = Site(4)
    for engine in table.engines[:2]:
        table.failed(engine, "broke", "it broke")
    assert table.who() == {"e2", "e3"}
    table.mark_down(table.engines[2], "refused")
    assert len(table.who()) == 2
    table.mark_down(table.engines[3], "refused")
    assert len(table.who()) >= 1


def test_the_only_child_on_its_way_back_is_not_held_to_its_window() -> None:
    table = Site(2)
    table.failed(table.engines[0], "broke", "it broke")
    table.mark_down(table.engines[1], "refused")
    table.clock.tick(BASE_S)
    leases = [table.available(OPENAI)[0].child.lease(table.available(OPENAI)[0]) for _ in range(5)]
    assert len(leases) == 5


def test_one_request_probes_a_child_that_was_ejected() -> None:
    table = Site(2)
    first = table.engines[0]
    table.failed(first, "broke", "it broke")
    assert table.who() == {"e1"}
    table.clock.tick(BASE_S)
    assert table.who() == {"e0", "e1"}
    lease = first.lease(first.shares[OPENAI])
    assert table.who() == {"e1"}  # one at a time
    table.succeeded(first)
    assert table.who() == {"e0", "e1"}
    lease.release()
    table.clock.tick(FORGOTTEN_S + 1)
    for _ in range(WELL):
        table.succeeded(first)
    table.sweep()
    assert first.trouble is None


def test_a_node_that_was_started_again_is_not_blamed_for_what_it_was() -> None:
    table = Table()
    for name in ("site-a", "site-b"):
        table.take(site(name))
    child = table.children["site-a"]
    for _ in range(3):
        table.failed(child, "unreachable", "refused")
        table.clock.tick(0.1)
    assert table.who() == {"site-b"}
    table.take(site("site-a", seq=9))  # the same process
    assert table.who() == {"site-b"}
    table.take(site("site-a", instance="site-a-2"))
    assert table.who() == {"site-a", "site-b"}
    assert child.trouble is None
    assert not child.is_dead(table.clock())


class EjectionMachine(RuleBasedStateMachine):
    """Whatever fails, succeeds and goes down: half of those that are there may be chosen, and no lease is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Site(4)
        self.leases: list[tuple[Child, Lease]] = []

    engines = st.integers(0, 3)

    @rule(number=engines, failure=st.sampled_from(FAILURES))
    def fails(self, number: int, failure: Failure) -> None:
        self.table.failed(self.table.engines[number], failure, "why")

    @rule(number=engines)
    def succeeds(self, number: int) -> None:
        self.table.succeeded(self.table.engines[number])

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
    def half_of_those_there_are_chosen(self) -> None:
        now = self.table.clock()
        there = [engine for engine in self.table.engines if engine.down is None]
        assert 2 * sum(engine.state(now) == "ejected" for engine in there) <= len(there)
        assert not there or self.table.available(OPENAI)

    @invariant()
    def leases_add_up(self) -> None:
        for engine in self.table.engines:
            assert engine.in_flight == sum(child is engine for child, _ in self.leases)


EjectionMachine.TestCase.settings = UNTIMED
TestEjection = EjectionMachine.TestCase
