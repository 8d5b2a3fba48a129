"""Models that may exist although no child lists them now."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.names import MAX_NAME
from hierarchy.registry.child import Child
from hierarchy.registry.known_models import (
    KNOWN_S,
    MAX_KNOWN,
    MAX_RETRY_AFTER_S,
    PATIENCE_S,
    SETTLE_S,
    Absence,
    KnownModels,
)
from hierarchy.uplink.parent_client import TIMEOUT_S
from hierarchy.uplink.registration import MAX_WAIT_S
from hierarchy.wire.listing import SeenKey
from hierarchy.wire.status import ModelKey
from tests.builders import FASTCHAT, OPENAI, Table, model, report, site, status_of, worker


@pytest.fixture
def table() -> Table:
    return Table()


def why(table: Table, key: ModelKey = OPENAI) -> str:
    """Why a model is absent; "" if it does not exist."""
    absence = table.absence(key)
    return "" if absence is None else absence.why


def test_a_model_that_was_never_there_does_not_exist(table: Table) -> None:
    table.add(site())
    table.sweep()
    assert why(table, ("other", "openai")) == ""


def lose_registered_models(table: Table) -> None:
    table.add(site("site-a", model("n"), instance="another", seq=1))


def lose_reported_models(table: Table) -> None:
    table.receive(report("site-a", model("n")))


def remove(table: Table) -> None:
    table.remove("site-a")


@pytest.mark.parametrize("lose", [lose_registered_models, lose_reported_models, remove])
def test_a_model_that_is_no_longer_listed_is_known_for_ten_minutes(table: Table, lose: Callable[[Table], None]) -> None:
    table.add(site())
    table.sweep()
    table.clock.tick(1.0)
    lose(table)
    assert why(table) == "was served here until 0 s ago"
    table.clock.tick(KNOWN_S - 1)
    assert why(table) == "was served here until 599 s ago"
    table.clock.tick(1.0)
    assert why(table) == ""


def test_a_model_that_only_a_subtree_lists_is_known_too(table: Table) -> None:
    """An engine that is down is in the subtree, not among the models that its node reports."""
    engine = {"kind": "vllm", "state": "down", "models": [{"name": "far"}, {"name": "x" * 1000}]}
    table.add(site(children={"gpu-1": engine}))
    table.sweep()
    table.remove("site-a")
    assert why(table, ("far", "openai")) == "was served here until 0 s ago"
    assert len(table.known.ages(table.clock())) == 2


def test_a_model_is_known_through_the_api_through_which_it_was_served(table: Table) -> None:
    table.add(site("site-a", model("m", api="fastchat")))
    table.sweep()
    assert (why(table, FASTCHAT) != "", why(table, OPENAI)) == (True, "")
    table.remove("site-a")
    assert (why(table, FASTCHAT) != "", why(table, OPENAI)) == (True, "")


# -- a node that has just started ----------------------------------------------------------------------------


def test_every_child_comes_back_while_the_node_settles() -> None:
    assert SETTLE_S > TIMEOUT_S + MAX_WAIT_S


def test_at_first_a_node_does_not_know_what_does_not_exist(table: Table) -> None:
    table.known.start(table.clock())
    table.clock.tick(3.0)
    absence = table.absence(OPENAI)
    assert absence is not None
    assert absence.why == "is not known yet: this node started 3 s ago"
    assert (absence.retry_after_s(table.clock()), absence.patience_s(table.clock())) == (7, 7.0)
    table.clock.tick(7.0)
    assert why(table) == ""


@pytest.mark.parametrize("name", ["x" * (MAX_NAME + 1), "", "line\nbreak"])
def test_what_no_child_may_list_never_exists(table: Table, name: str) -> None:
    table.known.start(table.clock())
    assert why(table, (name, "openai")) == ""


def test_a_settling_node_is_incomplete(table: Table) -> None:
    table.known.start(table.clock())
    assert table.is_incomplete()
    table.clock.tick(SETTLE_S)
    assert not table.is_incomplete()


# -- what the configuration declares -------------------------------------------------------------------------


def test_a_declared_model_is_never_unknown(table: Table) -> None:
    table.known.declare({"m"}, (), table.clock())
    table.known.start(table.clock())
    table.clock.tick(10 * KNOWN_S)
    assert why(table) == "is declared in the configuration, but no child serves it now"
    assert why(table, ("n", "openai")) == ""
    table.known.declare((), (), table.clock())
    assert why(table) == ""


@pytest.mark.parametrize("comes", [site("site-b"), site("site-b", replica=True)])
def test_a_declared_child_that_has_not_registered_may_have_any_model(table: Table, comes: dict[str, Any]) -> None:
    table.known.declare((), {"site-b"}, table.clock())
    table.known.start(table.clock())
    table.clock.tick(SETTLE_S)
    assert (why(table), table.is_incomplete()) == ("is not known yet: site-b has not registered", True)
    table.add(comes)
    table.sweep()
    assert (why(table, ("n", "openai")), table.is_incomplete()) == ("", False)


def test_a_declared_child_is_not_expected_for_ever(table: Table) -> None:
    table.known.declare((), {"site-b"}, table.clock())
    table.known.start(table.clock())
    table.clock.tick(KNOWN_S)
    assert (why(table), table.is_incomplete()) == ("", False)


# -- children that have not named their models ---------------------------------------------------------------


def register_empty_node(table: Table) -> Child:
    return table.add({**site("empty"), "models": []})


def register_worker_without_status(table: Table) -> Child:
    return table.add(worker("http://empty:1") | {"worker_status": None})


def declare_engine(table: Table) -> Child:
    return table.declare("empty", "http://empty:1", "vllm")


@pytest.mark.parametrize("register", [register_empty_node, register_worker_without_status, declare_engine])
@pytest.mark.parametrize("swept", [True, False])
def test_a_child_without_a_model_yet_may_have_any(
    table: Table, register: Callable[[Table], Child], *, swept: bool
) -> None:
    child = register(table)
    if swept:
        table.sweep()
    assert (why(table), table.is_incomplete()) == (
        f"is not known yet: {child.name} has not named all of its models",
        True,
    )
    child.report(status_of(model("n")), table.clock())
    table.sweep()
    assert (why(table), table.is_incomplete()) == ("", False)
    child.report(status_of(), table.clock())
    assert why(table) == ""  # what it had is known, and it is no new child


def test_a_child_that_never_names_a_model_is_not_waited_for(table: Table) -> None:
    declare_engine(table)
    table.sweep()
    table.clock.tick(KNOWN_S)
    table.sweep()
    assert (why(table), table.is_incomplete()) == ("", False)


def test_a_child_that_says_that_it_does_not_know_all_its_models(table: Table) -> None:
    """Three levels up, a rack that restarts is only a field in its site's reports."""
    table.add(site())
    table.sweep()
    assert why(table, ("n", "openai")) == ""
    table.receive(report("site-a", incomplete=True))
    for _ in range(2):
        assert "site-a has not named all" in why(table, ("n", "openai"))
        table.sweep()
    assert table.is_incomplete()
    table.receive(report("site-a", seq=3))
    assert (why(table, ("n", "openai")), table.is_incomplete()) == ("", False)


def test_a_child_that_says_so_for_ever_is_not_believed_for_ever(table: Table) -> None:
    table.add(site("site-a", incomplete=True))
    table.sweep()
    table.clock.tick(KNOWN_S)
    table.receive(report("site-a", incomplete=True))
    table.sweep()
    assert (why(table, ("n", "openai")), table.is_incomplete()) == ("", False)


# -- how long to wait ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("away_s", "seconds"), [(0.0, 1), (0.2, 1), (4.2, 5), (29.5, 30), (500.0, 30)])
def test_another_request_is_worthwhile_after_as_long_again(away_s: float, seconds: int) -> None:
    assert Absence("", "", 1000.0).retry_after_s(1000.0 + away_s) == seconds


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9) | st.just(math.inf))
def test_a_retry_after_is_one_that_clients_follow(since: float, now: float, until: float) -> None:
    assert 1 <= Absence("", "", since, until).retry_after_s(now) <= MAX_RETRY_AFTER_S


def test_requests_are_held_for_a_model_that_was_available_a_moment_ago(table: Table) -> None:
    child = table.declare("a", "http://a:1", "vllm")
    table.report(child, status_of(model()))
    table.sweep()
    table.mark_down(child, "refused")
    for tick_s, patience_s in ((PATIENCE_S - 1, math.inf), (1.0, 0.0)):
        table.clock.tick(tick_s)
        table.sweep()  # it is listed all the time
        absence = table.absence(OPENAI)
        assert absence is not None
        assert absence.why == "is served here, but no child that serves it is available now"
        assert absence.patience_s(table.clock()) == patience_s


# -- from one process to the next ----------------------------------------------------------------------------


def test_models_of_the_process_before_are_known(table: Table) -> None:
    table.known.remember({("m", "openai"): 100.0, ("n", "later"): 0.0}, table.clock())
    assert why(table) == "was served here until 100 s ago"
    assert table.known.ages(table.clock()) == {("m", "openai"): 100.0, ("n", "later"): 0.0}
    table.clock.tick(KNOWN_S - 100)
    assert why(table) == ""
    assert table.known.ages(table.clock()) == {("n", "later"): 500.0}


def test_no_more_than_so_many_models_are_known() -> None:
    known = KnownModels()
    for at, names in ((1.0, ["old"]), (2.0, [f"m{number}" for number in range(MAX_KNOWN)])):
        keys: list[SeenKey] = [(name, "openai") for name in names]
        known.appeared(keys, at)
        assert len(known.ages(at)) == min(len(keys), MAX_KNOWN)
        known.vanished(keys, at)
    known.forget(2.0)
    assert len(known.ages(2.0)) == MAX_KNOWN
    assert known.known(("old", "openai"), 2.0) is None


def test_a_model_that_is_listed_is_never_forgotten() -> None:
    known = KnownModels()
    known.appeared([(f"m{number}", "openai") for number in range(2 * MAX_KNOWN)], 1.0)
    known.forget(1e9)
    assert known.lost(("m0", "openai"), 1e9).since == 1.0
    assert len(known.ages(1e9)) == MAX_KNOWN


def test_a_model_that_only_the_other_api_serves_may_come_through_this_one(table: Table) -> None:
    """But not because the configuration declares it: that says nothing of an API."""
    table.known.declare({"m"}, (), table.clock())
    table.known.start(table.clock())
    table.add(site("site-a", model("m", api="fastchat")))
    table.sweep()
    assert why(table) == "is not known yet: this node started 0 s ago"
    table.clock.tick(SETTLE_S)
    assert why(table) == ""
