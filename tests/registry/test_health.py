"""Which children are suspect or ejected, and what is used all the same where there is nothing better."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.registry import is_avoided
from hierarchy.registry.child import Child, Share
from hierarchy.registry.ejection import BASE_S, FORGET_AFTER_S, REQUEST_VOLUME, WINDOW_S
from hierarchy.registry.health import PENALTY_S
from hierarchy.wire.status import ModelKey
from tests.builders import OPENAI, Table, model, site, status_of

OTHER: ModelKey = ("n", "openai")


class Engines(Table):
    """Engines e0, e1, … that serve `m` and `n`."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.engines = [self.declare(f"e{number}", f"http://e{number}:1", "vllm") for number in range(count)]
        for engine in self.engines:
            self.report(engine, status_of(model("m"), model("n")))

    def share(self, number: int) -> Share:
        """What engine number `number` serves of model m."""
        return self.engines[number].shares[OPENAI]

    def answers(self, number: int, *, good: bool, elsewhere: bool = False) -> None:
        """A response of that engine ends."""
        share = self.share(number)
        if good:
            share.responses.good += 1
            self.completed(share)
        else:
            self.failed(share, "error", "answered 500", elsewhere=elsewhere)

    def ejected(self) -> set[str]:
        """The names of the engines that are ejected for m."""
        return {engine.name for engine in self.engines if engine.shares[OPENAI].is_ejected(self.clock())}


# -- suspects --------------------------------------------------------------------------------------------------------


def test_a_suspect_gets_nothing_new_while_another_child_can_take_it() -> None:
    table = Engines(2)
    table.suspect(table.engines[0], "late")
    assert table.available_names() == {"e1"}
    assert not is_avoided(table.available(OPENAI))
    table.trust(table.engines[0])
    assert table.available_names() == {"e0", "e1"}


def test_a_suspect_that_is_the_only_one_is_used_and_reported_as_to_be_avoided() -> None:
    table = Engines(1)
    table.suspect(table.engines[0], "late")
    assert table.available_names() == {"e0"}
    assert is_avoided(table.available(OPENAI))
    assert [(one.name, one.avoid) for one in table.status().models] == [("m", True), ("n", True)]


def test_what_a_node_reports_as_to_be_avoided_is_the_second_choice() -> None:
    table = Table()
    table.add(site("a", model("m", avoid=True)))
    assert table.available_names() == {"a"}
    assert table.status().models[0].avoid
    table.add(site("b", model("m", 3.0)))
    assert table.available_names() == {"b"}
    assert (table.status().models[0].avoid, table.status().models[0].speed) == (False, 3.0)


def test_a_report_ends_a_suspicion() -> None:
    table = Engines(1)
    table.suspect(table.engines[0], "late")
    table.report(table.engines[0], status_of(model("m"), model("n")))
    assert table.engines[0].state(table.clock()) == "up"


# -- bad responses ---------------------------------------------------------------------------------------------------


def test_one_model_of_an_engine_is_ejected_alone_after_three_errors() -> None:
    table = Engines(3)
    for _ in range(2):
        table.answers(0, good=False)
    assert not table.ejected()
    table.answers(0, good=False)
    assert table.ejected() == {"e0"}
    assert table.engines[0].state(table.clock()) == "up"
    assert table.available_names(OTHER) == {"e0", "e1", "e2"}
    table.clock.tick(BASE_S)
    assert table.available_names() == {"e0", "e1", "e2"}


def test_a_connection_that_cannot_be_made_ejects_the_whole_child() -> None:
    table = Engines(2)
    table.failed(table.share(0), "unreachable", "refused")
    assert table.engines[0].state(table.clock()) == "ejected"
    assert table.available_names(OTHER) == {"e1"}


@pytest.mark.parametrize("engines", [1, 2, 3, 5])
@given(order=st.lists(st.integers(0, 4), max_size=60))
def test_a_request_that_every_engine_answers_with_500_empties_no_model(engines: int, order: list[int]) -> None:
    """In whatever order the engines get it: at least half of them stay."""
    table = Engines(engines)
    for number in order:
        table.answers(number % engines, good=False)
        assert len(table.ejected()) <= engines // 2
        assert table.available(OPENAI)


@pytest.mark.parametrize("engines", [2, 3, 8])
def test_errors_that_go_round_all_engines_eject_none(engines: int) -> None:
    table = Engines(engines)
    for number in range(20 * engines):
        table.answers(number % engines, good=False)
    assert not table.ejected()


def test_an_ejection_for_errors_ends_when_the_others_fail_as_well() -> None:
    table = Engines(2)
    for _ in range(3):
        table.answers(0, good=False)
    assert table.ejected() == {"e0"}
    for _ in range(3):
        table.answers(1, good=False)
    assert not table.ejected()


def test_an_engine_that_fails_a_third_of_its_requests_is_ejected_by_its_error_rate() -> None:
    table = Engines(3)
    for turn in range(REQUEST_VOLUME + 3):
        for number in (1, 2):
            table.answers(number, good=True)
        table.answers(0, good=turn % 3 > 0)
    assert table.ejected() == {"e0"}


def test_errors_of_long_ago_are_not_in_the_error_rate() -> None:
    table = Engines(2)
    table.answers(0, good=False)
    for _ in range(2):
        table.clock.tick(WINDOW_S)
        table.sweep()
    assert table.share(0).responses.error_rate == 0.0
    assert table.share(0).responses.volume == 0


def test_the_only_engine_here_is_ejected_where_others_elsewhere_can_serve() -> None:
    table = Engines(1)
    for _ in range(3):
        table.answers(0, good=False)
    assert not table.ejected()
    for _ in range(3):
        table.answers(0, good=False, elsewhere=True)
    assert table.ejected() == {"e0"}
    assert table.last_resort(OPENAI) == [table.share(0)]
    assert table.status().models[0].avoid


def test_an_engine_that_was_down_comes_back_without_its_ejection() -> None:
    table = Engines(2)
    table.failed(table.share(0), "broke", "it broke")
    assert table.ejected() == {"e0"}
    for engine in table.engines:
        table.mark_down(engine, "refused")
    table.report(table.engines[0], status_of(model("m"), model("n")))
    assert table.available_names() == {"e0"}


def test_fast_failures_attract_no_load() -> None:
    table = Engines(2)
    lease = table.engines[1].lease(table.share(1))
    table.answers(0, good=False)
    assert table.share(0).score > table.share(1).score
    table.answers(0, good=True)
    assert table.share(0).score < table.share(1).score
    lease.release()


def test_a_single_error_is_forgiven_without_a_request() -> None:
    """Else an engine that is not chosen for one bad request would never be chosen again."""
    table = Engines(2)
    table.answers(0, good=False)
    table.clock.tick(PENALTY_S)
    table.sweep()
    assert table.share(0).score == table.share(1).score == 0
    assert blamed(table.engines[0])  # two more are enough for a while
    table.clock.tick(FORGET_AFTER_S + 1)
    table.sweep()
    assert not blamed(table.engines[0])


def test_a_timeout_at_a_child_that_serves_others_is_one_failure_of_three() -> None:
    table = Engines(2)
    flowing, still = table.engines
    flowing.received += 1
    table.sweep()
    for engine in (flowing, still):
        table.failed(engine.shares[OPENAI], "timeout", "sent nothing")
    assert table.ejected() == {"e1"}


def blamed(child: Child) -> bool:
    """Does it have failures?"""
    return any(share.failures is not None for share in child.shares.values())


def test_a_success_is_judged_at_the_end_and_not_at_the_first_byte() -> None:
    table = Engines(2)
    for _ in range(2):
        table.answers(0, good=False)
        table.first_byte(table.share(0))
    table.answers(0, good=False)
    assert table.ejected() == {"e0"}
    assert blamed(table.engines[0])
