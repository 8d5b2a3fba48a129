"""A child's load compared with that of a simulated child that counts what it receives; then health and views."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hierarchy.registry.child import FASTCHAT_EXPIRY_S, NODE, Child, Lease
from hierarchy.registry.drain import Drain
from hierarchy.registry.ejection import FailureRecord
from hierarchy.registry.load import Load
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.builders import FASTCHAT, OPENAI, model, status_of

SPEEDS = {"a": 1.0, "b": 2.0}


@dataclass(eq=False)
class Request:
    """A request from the parent, and where it really is."""

    model: str
    lease: Lease
    place: str = "sent"  # then "running", then "done": the child has finished, and its response has not arrived yet


@dataclass
class Snapshot:
    """A report of the child's."""

    status: NodeStatus
    seen: int


@dataclass
class Truth:
    """The other end: one process of the child, which counts the requests that it has received."""

    seen: int = 0  # ordinal of the last request that arrived
    foreign: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPEEDS, 0))  # requests of other parents
    models: set[str] = field(default_factory=lambda: set(SPEEDS))


class LoadMachine(RuleBasedStateMachine):
    """Leases, requests that arrive in order, late responses, late reports, restarts, and changes of models."""

    def __init__(self) -> None:
        super().__init__()
        self.child = Child("c", "http://c:1", NODE)
        self.truth = Truth()
        self.leased: list[Request] = []  # their lease is open
        self.abandoned: list[Request] = []  # their lease was released, but the child still runs them
        self.reports: list[Snapshot] = []  # sent, but not delivered yet
        #: other parents' requests by model in the last report, if it was exact: until the next one, load is exact too
        self.exact: dict[str, int] | None = None
        self.deliver(self.snapshot())

    # -- the child ---------------------------------------------------------------------------------------------------

    def running(self, name: str) -> int:
        at_child = [r for r in [*self.leased, *self.abandoned] if r.place == "running" and r.model == name]
        return self.truth.foreign[name] + len(at_child)

    def snapshot(self) -> Snapshot:
        models = [ModelStatus(name, "openai", SPEEDS[name], self.running(name)) for name in sorted(self.truth.models)]
        return Snapshot(NodeStatus(tuple(models), 3.0, sum(map(self.running, SPEEDS))), self.truth.seen)

    def deliver(self, snapshot: Snapshot) -> None:
        self.child.report(snapshot.status, 0.0, snapshot.seen)

    # -- what happens ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.child.shares)
    @rule(data=st.data())
    def lease(self, data: st.DataObject) -> None:
        share = data.draw(st.sampled_from(list(self.child.shares.values())))
        self.leased.append(Request(share.key[0], self.child.lease(share)))

    @rule()
    def receive(self) -> None:
        for request in sorted([*self.leased, *self.abandoned], key=lambda r: r.lease.ordinal):
            if request.place == "sent":
                request.place = "running"
                self.truth.seen = max(self.truth.seen, request.lease.ordinal)
                return

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), response_is_late=st.booleans())
    def finish(self, data: st.DataObject, response_is_late: bool) -> None:
        request = data.draw(st.sampled_from(self.leased))
        if response_is_late and request.place == "running":
            request.place = "done"
        elif request.place != "sent":
            self.release(request)

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def client_leaves(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.leased))
        if request.place != "done":
            self.abandoned.append(request)
        self.release(request)

    @precondition(lambda self: self.abandoned)
    @rule()
    def child_cancels(self) -> None:
        del self.abandoned[0]

    def release(self, request: Request) -> None:
        self.leased.remove(request)
        request.lease.release()
        request.lease.release()  # counts once

    @rule(name=st.sampled_from(sorted(SPEEDS)), more=st.booleans())
    def other_parents(self, name: str, more: bool) -> None:
        self.truth.foreign[name] = max(0, self.truth.foreign[name] + (1 if more else -1))

    @rule(names=st.sets(st.sampled_from(sorted(SPEEDS))))
    def change_models(self, names: set[str]) -> None:
        self.truth.models = names

    @rule()
    def report(self) -> None:
        self.reports.clear()  # earlier ones are dropped by their number
        settled = not self.abandoned and all(request.place != "done" for request in self.leased)
        in_order = all(r.place == "running" or r.lease.ordinal > self.truth.seen for r in self.leased)
        snapshot = self.snapshot()
        self.deliver(snapshot)
        self.exact = dict(self.truth.foreign) if settled and in_order else None
        if settled and all(request.place == "running" for request in self.leased):  # no request is still to arrive
            for share in self.child.shares.values():
                assert self.child.load(share.key) == self.running(share.key[0])
            assert self.child.total.value == sum(map(self.running, SPEEDS))

    @rule()
    def send_report(self) -> None:
        self.reports.append(self.snapshot())

    @precondition(lambda self: self.reports)
    @rule()
    def late_report_arrives(self) -> None:
        self.deliver(self.reports.pop(0))
        self.exact = None

    @rule(unknown=st.integers(0, 5))
    def false_report(self, unknown: int) -> None:
        self.child.report(status_of(model("a", queue_length=unknown)), 0.0, seen=10**9)
        self.exact = None

    @rule()
    def restart(self) -> None:
        """The child loses its running requests; their leases are released sooner or later."""
        self.truth = Truth()
        self.reports.clear()
        self.abandoned.clear()
        for request in self.leased:
            request.place = "done"
        self.exact = None

    # -- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def load_is_never_negative_or_below_the_open_leases(self) -> None:
        assert self.child.in_flight == self.child.total.open == len(self.leased)
        assert self.child.total.value >= len(self.leased)
        for share in self.child.shares.values():
            assert share.open == sum(request.model == share.key[0] for request in self.leased)
            assert share.value >= share.open >= 0
            assert share.score == share.value / share.speed
            assert share.status(0.0) == ModelStatus(*share.key, share.speed, share.value, share.slots)

    @invariant()
    def after_an_exact_report_load_is_exact(self) -> None:
        if self.exact is None:
            return
        assert self.child.total.value == sum(self.exact.values()) + len(self.leased)
        for share in self.child.shares.values():
            leased = sum(request.model == share.key[0] for request in self.leased)
            assert share.value == self.exact[share.key[0]] + leased

    def teardown(self) -> None:
        for request in list(self.leased):
            self.release(request)
        for load in (self.child.total, *self.child.shares.values()):
            assert (load.open, load.uncounted) == (0, 0)
        self.truth, self.abandoned = Truth(), []
        self.deliver(self.snapshot())
        assert self.child.current(0.0).queue_length == 0
        assert all(share.value == 0 for share in self.child.shares.values())


LoadMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40)
TestLoad = LoadMachine.TestCase


# -- load, step by step ----------------------------------------------------------------------------------------------


def child_with(*models: ModelStatus, kind: str = NODE) -> Child:
    child = Child("c", "http://c:1", kind)
    child.report(status_of(*(models or (model(),))), 0.0)
    return child


def test_leases_in_a_reported_queue_are_not_counted_twice() -> None:
    child = child_with()
    leases = [child.lease(child.shares[OPENAI]) for _ in range(3)]
    child.report(status_of(model(queue_length=2 + 5)), 1.0, seen=2)  # two leases of this node, five of other parents
    assert child.load(OPENAI) == 8
    leases[0].release()
    assert child.load(OPENAI) == 7
    leases[2].release()
    assert child.load(OPENAI) == 6


def test_a_report_without_seen_counts_all_earlier_leases() -> None:
    child = child_with(kind="vllm")
    lease = child.lease(child.shares[OPENAI])
    child.report(status_of(model(queue_length=3)), 1.0)
    assert child.load(OPENAI) == 3
    late = child.lease(child.shares[OPENAI])
    assert child.load(OPENAI) == 4
    lease.release()
    late.release()
    assert child.load(OPENAI) == 2


def test_a_reported_queue_that_stays_too_low_does_not_hide_open_leases() -> None:
    child = child_with()
    leases = [child.lease(child.shares[OPENAI]) for _ in range(4)]
    child.report(status_of(model(queue_length=0)), 1.0, seen=4)
    assert child.load(OPENAI) == 4
    leases[0].release()
    assert child.load(OPENAI) == 3


def test_an_address_that_was_handed_out_counts_until_the_next_report() -> None:
    child = child_with()
    child.hand_out(child.shares[OPENAI])
    assert (child.load(OPENAI), child.total.value, child.shares[OPENAI].score, child.in_flight) == (1, 1, 1.0, 0)
    child.report(status_of(model()), 1.0)
    assert child.load(OPENAI) == 0


def test_a_reported_queue_that_stays_too_high_does_not_grow_with_each_lease() -> None:
    """FastChat's workers lose slots on errors: these stay counted, but requests that ended are not counted again."""
    child = child_with(model(api="fastchat"), kind="fastchat")
    for heartbeat in range(1, 4):
        leases = [child.lease(child.shares[FASTCHAT]) for _ in range(2)]
        assert child.load(FASTCHAT) == (2 if heartbeat == 1 else 7)
        child.heart_beat(5, float(heartbeat))  # three too many
        for lease in leases:
            lease.release()
        assert child.load(FASTCHAT) == 3
        child.heart_beat(5, heartbeat + 0.5)
        assert child.load(FASTCHAT) == 5


def test_a_heartbeat_has_one_queue_length_for_all_models() -> None:
    child = child_with(model("a", 2, api="fastchat"), model("b", 2, api="fastchat"), kind="fastchat")
    child.heart_beat(7, 5.0)
    assert [child.load((name, "fastchat")) for name in "ab"] == [7, 7]
    assert child.current(0.0) == NodeStatus((model("a", 2, 7, api="fastchat"), model("b", 2, 7, api="fastchat")), 2, 7)
    assert child.last_seen == 5.0


def test_a_model_that_comes_back_finds_its_open_leases() -> None:
    child = child_with()
    lease = child.lease(child.shares[OPENAI])
    child.report(NodeStatus(), 1.0, seen=0)
    assert (child.shares, child.total.value) == ({}, 1)
    child.report(status_of(model()), 2.0, seen=0)
    assert child.load(OPENAI) == 1
    lease.release()
    assert (child.load(OPENAI), child.total.value) == (0, 0)


def test_report_returns_whether_models_or_speeds_changed() -> None:
    child = child_with(model("a"), model("b"))
    assert not child.report(status_of(model("a", queue_length=9), model("b")), 1.0)
    assert child.report(status_of(model("a"), model("b", slots=4)), 1.0)  # they are known now
    assert not child.report(status_of(model("a"), model("b", slots=5)), 1.0)
    assert child.report(status_of(model("a", 2), model("b")), 1.0)
    assert child.report(status_of(model("a", 2)), 1.0)
    assert child.report(status_of(model("a", 2, api="fastchat")), 1.0)
    assert not child.report(status_of(model("a", 2, api="fastchat")), 1.0)


@pytest.mark.parametrize(("reported", "ended", "uncounted", "open_", "value"), [
    (0, 0, 0, 0, 0),
    (5, 0, 0, 0, 5),
    (5, 2, 0, 1, 3),
    (5, 2, 3, 4, 6),
    (1, 3, 0, 0, 0),  # more ended than it reported: its report left them out already
    (0, 0, 0, 2, 2),
])  # fmt: skip
def test_load_follows_the_formula(reported: int, ended: int, uncounted: int, open_: int, value: int) -> None:
    load = Load()
    load.reported, load.ended, load.uncounted, load.open = reported, ended, uncounted, open_
    assert load.value == value


# -- health and views ------------------------------------------------------------------------------------------------


def test_the_states_of_a_child_in_their_order() -> None:
    child = Child("c", "http://c:1", "vllm", declared=True)
    assert child.state(0.0) == "starting"
    child.report(status_of(model()), 0.0)
    assert (child.state(0.0), child.detail(0.0), child.available(0.0)) == ("up", "", True)
    child.failures = FailureRecord()
    child.failures.until, child.failures.reason = 10.0, "it broke 3 requests"
    assert (child.state(9.9), child.detail(9.9)) == ("ejected", "it broke 3 requests")
    assert child.state(10.0) == "up"
    child.suspect = "it has not answered a probe for 3 s"
    assert (child.state(9.9), child.state(10.0)) == ("ejected", "suspect")
    assert (child.detail(10.0), child.available(10.0)) == ("it has not answered a probe for 3 s", False)
    child.asleep = True
    assert child.state(9.9) == "asleep"
    child.drain = Drain(0.0, "ann", "new GPU")
    assert (child.state(10.0), child.available(10.0)) == ("draining", False)
    assert child.detail(10.0) == "by ann: new GPU"
    child.down = "refused"
    assert (child.state(10.0), child.detail(10.0)) == ("down", "refused; drained by ann: new GPU")
    child.report(status_of(model()), 11.0)
    assert child.state(11.0) == "draining"


def test_a_node_is_silent_after_three_intervals_and_gone_after_ten() -> None:
    child = child_with()
    child.interval_s = 2.0
    assert child.state(5.99) == "up"
    assert (child.state(6.0), child.detail(6.4)) == ("silent", "no report for 6 s")
    assert child.gone_at == 20.0


def test_a_fastchat_worker_expires_after_fastchats_time() -> None:
    child = child_with(kind="fastchat")
    assert child.fresh_until == child.gone_at == FASTCHAT_EXPIRY_S
    child.check_heart_beat = False
    assert child.fresh_until == math.inf


def test_a_node_from_which_bytes_arrive_is_silent_only_when_it_would_be_gone() -> None:
    child = Child("site", "http://site:1", NODE)
    child.interval_s = 2.0
    child.report(NodeStatus(), now=0.0)
    child.heard_at = 5.0
    assert (child.state(10.9), child.state(11.0)) == ("up", "silent")
    child.heard_at = 19.0
    assert child.fresh_until == child.gone_at == 20.0


def test_a_declared_engine_is_never_silent() -> None:
    child = Child("c", "http://c:1", "vllm", declared=True)
    child.report(status_of(model()), 0.0)
    assert child.fresh_until == child.gone_at == math.inf


@pytest.mark.parametrize(
    ("url", "shown", "host", "port", "tls", "prefix", "authority"),
    [
        ("http://h:1/", "http://h:1", "h", 1, False, b"", b"h:1"),
        ("https://h", "https://h", "h", 443, True, b"", b"h"),
        ("http://[::1]/base/", "http://[::1]/base", "::1", 80, False, b"/base", b"[::1]"),
    ],
)
def test_a_url_is_split_into_what_the_data_path_needs(
    url: str, shown: str, host: str, port: int, tls: bool, prefix: bytes, authority: bytes
) -> None:
    child = Child("c", url, "vllm")
    assert (child.url, child.host, child.port) == (shown, host, port)
    assert (child.tls, child.prefix, child.authority) == (tls, prefix, authority)


def test_a_model_is_served_in_its_family() -> None:
    child = child_with(model("m", api="fastchat"))
    assert child.serves("m")
    assert child.serves("m", "fastchat")
    assert not child.serves("m", "openai")
    assert not child.serves("n")
    assert child.load(("n", "openai")) == 0
    assert repr(child) == "<Child c node load=0 open=0>"
    assert repr(child.shares["m", "fastchat"]) == "<Share c m load=0 open=0 speed=1>"
