"""The relation to a parent: registration, reports, lost contact, and the parent's side of all that."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.runtime.slices import Slices
from hierarchy.security.credential_store import CredentialStore
from hierarchy.uplink import registration
from hierarchy.uplink.registration import FASTCHAT_INTERVAL_S, MAX_WAIT_S
from hierarchy.uplink.thinning import JITTER, TICK_S
from hierarchy.wire.messages import Accepted
from hierarchy.wire.offer import Offer
from hierarchy.wire.record import Record
from hierarchy.wire.status import NodeStatus
from tests.builders import OPENAI, SITE, model, status_of, subtrees
from tests.uplink.support import Answer, Bench, load, refuse

# -- registering -----------------------------------------------------------------------------------------------------


def test_a_registration_contains_everything() -> None:
    bench = Bench()
    bench.source.now = status_of(model("a", 4, 2, slots=8), model("b", 1, api="fastchat"))
    bench.run(0.1)
    (child,) = bench.table
    assert (child.name, child.url, child.instance, child.version) == ("site-a", SITE, "site-a-1", "1.0")
    assert child.dispatch == "p2c"
    assert (child.status, set(child.path)) == (bench.source.now, {"site-a-1", "rack-1"})
    assert (child.subtree, child.seq, child.interval_s) == (bench.source.below, 1, 1.0)
    assert bench.uplink.registered
    assert repr(bench.uplink) == "<Uplink http://root:21001 registered seen=0>"
    assert bench.uplink.believes(child.secret, 1)


def test_it_retries_for_ever_with_jitter_and_logs_each_reason_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hierarchy.uplink")
    bench = Bench()
    bench.answer = refuse
    bench.at(600, lambda: setattr(bench, "answer", bench.as_node))
    bench.run(610)
    waits = bench.slept[: len(bench.registrations) - 1]
    assert len(waits) > 150
    assert all(0 <= wait <= MAX_WAIT_S for wait in waits)
    assert len(set(waits)) == len(waits)
    assert sum(waits[-50:]) / 50 > 1  # no longer in a hurry
    assert (len(bench.table), bench.uplink.registered) == (1, True)
    assert [record.getMessage() for record in caplog.records] == [
        "cannot register with http://root:21001: connection refused; retrying",
        "registered with http://root:21001 (root 1.0)",
    ]


def test_another_reason_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    taken = {"error": {"message": "name 'site-a' is taken", "type": "invalid_request_error"}}
    bench.answer = refuse
    bench.at(20, lambda: setattr(bench, "answer", lambda *_: httpx.Response(409, json=taken)))
    bench.run(40)
    assert [record.getMessage() for record in caplog.records] == [
        "cannot register with http://root:21001: connection refused; retrying",
        "cannot register with http://root:21001: it answered 409: name 'site-a' is taken; retrying",
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.Response(502, text="<html>"), "it answered 502"),
        (httpx.Response(404, json={"detail": "Not Found"}), "it answered 404"),
        (httpx.Response(500, json={"error": {"message": 7}}), "it answered 500"),
        (httpx.Response(200, text="<html>welcome"), "is not JSON"),
        (httpx.Response(200, json=[1]), "not understood"),
        (httpx.Response(200, text=""), "is not JSON"),
        (httpx.Response(200, json={"status": "ok"}), "names no instance"),
        (httpx.Response(200, json={"interval_s": "soon"}), "not understood"),
        (httpx.Response(200, json={"instance": "root-1", "interval_s": 0}), "every 0.0 s"),
        (httpx.Response(200, content=b'{"instance": "root-1", "interval_s": 1e999}'), "is not JSON"),
        (httpx.Response(200, content=b'{"instance": "root-1", "interval_s": NaN}'), "is not JSON"),
        (httpx.Response(200, content=b'{"a":' * 999 + b"1" + b"}" * 999), "is not JSON"),
        (httpx.Response(200, content=b'{"instance": "root-1", "interval_s": 1' + b"0" * 400 + b"}"), "is not JSON"),
        (httpx.Response(200, json={"instance": "root-1", "wanted": -1}), "-1 links"),
        (httpx.Response(200, json={"instance": "root-1", "credential": "a\r\nx-forged: 1"}), "credential"),
        (httpx.Response(200, json={"instance": "root-1", "credential": "a" * 100_000}), "credential"),
        (httpx.Response(200, json={"instance": "root-1", "node": "a\x1b[2J"}), "node"),
    ],
)
def test_a_response_that_is_not_a_controllers_is_not_a_registration(
    answer: httpx.Response, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    bench.answer = lambda *_: answer
    bench.run(20)
    assert not bench.uplink.registered
    assert bench.reports == []
    assert len(bench.registrations) > 3
    (record,) = caplog.records
    assert reason in record.getMessage()


@pytest.mark.parametrize(
    "refusal",
    [
        httpx.Response(413, json={"error": {"message": "the body is larger than 1024 bytes"}}),
        httpx.Response(422, json={"error": {"message": "children: is nested deeper than 64 levels of nodes"}}),
    ],
)
def test_a_parent_that_refuses_what_is_below_a_node_gets_the_node_without_it(
    refusal: httpx.Response, caplog: pytest.LogCaptureFixture
) -> None:
    """A site with a subtree that is too large would else be gone, and with it all honest sites below the same node."""
    caplog.set_level(logging.WARNING)
    bench = Bench()

    def answer(path: str, message: dict[str, Any]) -> Any:
        return refusal if "evil" in (message.get("children") or ()) else bench.as_node(path, message)

    bench.answer = answer
    bench.at(10, lambda: setattr(bench.source, "below", {**bench.source.below, "evil": {"kind": "node"}}))
    bench.at(30, lambda: setattr(bench.source, "now", status_of(model(queue_length=50))))
    bench.run(60)
    child = bench.table.children["site-a"]
    assert bench.uplink.registered
    assert child.subtree == {}
    assert child.total.reported == 50, "it still reports"
    assert any("incomplete" in line for line in caplog.messages)
    assert len([line for line in caplog.messages if "refuses a message" in line]) == 1
    assert "not shown" in child.warnings[0]
    assert not any(line.startswith("lost") for line in caplog.messages)
    bench.source.below = {"gpu": {"kind": "vllm", "state": "up"}}
    bench.run(registration.CUT_S)
    assert bench.table.children["site-a"].subtree == bench.source.below
    assert bench.table.children["site-a"].warnings == []


def test_a_parent_that_may_expect_https_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    def hang_up(*_: Any) -> Any:
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.")

    bench = Bench()
    bench.answer = hang_up
    bench.run(5)
    assert caplog.messages[0].endswith("without sending a response.; does the parent expect https?; retrying")


def test_a_node_with_a_credential_registers_again_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a node whose parent never restarts would be locked out by the first restart after 90 days."""
    assert registration.RENEW_S == 24 * 3600
    monkeypatch.setattr(registration, "RENEW_S", day_s := 3600.0)  # a day has 864,000 ticks, which take seconds
    bench = Bench(interval_s=600.0)
    bench.uplink._credentials = CredentialStore(tmp_path / "credential", "old")
    bench.run(3 * day_s + 60)
    gaps = [later - sooner for sooner, later in pairwise(bench.registrations)]
    assert len(gaps) >= 3
    assert all((1 - JITTER) * day_s <= gap <= day_s + 2 * TICK_S for gap in gaps)
    assert bench.uplink.registered


# -- reporting -------------------------------------------------------------------------------------------------------


def test_quiet_nodes_report_at_their_interval_with_jitter() -> None:
    bench = Bench().run(100)
    gaps = [later - sooner for sooner, later in pairwise(bench.reports)]
    assert all(1 - JITTER - 1e-6 <= gap <= 1 + JITTER + TICK_S + 1e-6 for gap in gaps)
    assert max(gaps) - min(gaps) > JITTER
    assert 85 <= len(bench.reports) <= 105
    assert bench.registrations == [0.0]
    assert all("children" not in message or message["children"] is None for _, _, message in bench.heard[1:])


def test_the_parent_may_ask_for_a_longer_interval_and_still_counts_the_child_as_alive() -> None:
    bench = Bench()
    bench.stretched_s = 5.0
    alive: list[bool] = []

    def agree() -> None:
        # As the endpoint does; a report must not undo it.
        bench.table.children["site-a"].interval_s = bench.stretched_s

    bench.at(0.1, agree)
    for second in range(10, 100):
        bench.at(second, lambda: alive.append("site-a" in bench.table.available_names()))
    bench.run(100)
    assert 15 <= len(bench.reports) <= 25
    assert all(alive)
    assert len(alive) == 90


def test_a_change_of_load_by_over_ten_percent_is_reported_at_once() -> None:
    bench = Bench(interval_s=1000)
    for second, queue_length in enumerate([100, 110, 111, 122, 123, 110, 1, 2, 1, 0], 1):
        bench.at(second, lambda queue_length=queue_length: setattr(bench.source, "now", load(queue_length)))  # type: ignore[misc]
    bench.run(20)
    reported = [message["queue_length"] for _, path, message in bench.heard if path == "/receive_heart_beat"]
    assert reported == [100, 111, 123, 110, 1, 2, 1, 0]
    assert bench.reports == pytest.approx([1, 3, 5, 6, 7, 8, 9, 10], abs=TICK_S + 1e-3)


def test_the_parents_own_requests_are_no_reason_for_a_report() -> None:
    bench = Bench(interval_s=1000)

    def running(own: int, others: int) -> None:
        bench.uplink.open = own
        bench.source.now = load(own + others)

    for second, (own, others) in enumerate([(50, 0), (3, 0), (90, 0), (90, 12), (10, 12), (10, 12)], 1):
        bench.at(second, lambda own=own, others=others: running(own, others))  # type: ignore[misc]
    bench.run(10)
    assert bench.reports == pytest.approx([4], abs=TICK_S + 1e-3)


def test_at_most_ten_reports_a_second_however_load_changes() -> None:
    bench = Bench()
    for tick in range(1000):
        bench.at(tick / 100, lambda tick=tick: setattr(bench.source, "now", load(tick // 10 % 2 * 1000 + tick)))  # type: ignore[misc]
    bench.run(10)
    assert 50 <= len(bench.reports) <= 100
    assert all(later - sooner >= TICK_S - 1e-6 for sooner, later in pairwise(bench.reports))


@pytest.mark.parametrize("after", [status_of(model(speed=1.01)), status_of(model("n")), NodeStatus()])
def test_a_change_of_capacity_is_reported_at_once(after: NodeStatus) -> None:
    bench = Bench(interval_s=1000)
    bench.at(5, lambda: setattr(bench.source, "now", after))
    bench.run(10)
    assert bench.reports == pytest.approx([5], abs=TICK_S + 1e-3)
    assert bench.table.children["site-a"].status == after


def test_a_report_contains_the_highest_number_seen() -> None:
    bench = Bench()

    def send() -> None:
        child = bench.table.children["site-a"]
        lease = child.lease(child.shares[OPENAI])
        assert bench.uplink.believes(child.secret, lease.ordinal)
        bench.source.now = load(1)

    bench.at(3, send)
    bench.run(6)
    child = bench.table.children["site-a"]
    assert (bench.uplink.seen, child.load(OPENAI), child.total.uncounted) == (1, 1, 0)


def test_load_and_numbers_of_a_message_are_those_of_one_moment() -> None:
    """What is below the node is collected in steps, and requests come meanwhile."""
    bench = Bench()

    def send() -> None:
        if bench.table.children and bench.clock.now - bench.start >= 3:
            child = bench.table.children["site-a"]
            lease = child.lease(child.shares[OPENAI])
            assert bench.uplink.believes(child.secret, lease.ordinal)
            bench.source.now = load(bench.source.now.queue_length + 1)

    bench.source.meanwhile.append(send)
    bench.run(6)
    child = bench.table.children["site-a"]
    assert child.in_flight == bench.uplink.seen > 1
    assert (child.total.reported, child.total.uncounted) == (child.in_flight, 0)


def test_others_have_their_turns_while_a_message_is_made() -> None:
    bench = Bench()
    bench.source.below = {f"gpu-{number}": {"kind": "vllm", "state": "up"} for number in range(50)}
    bench.uplink._slices = Slices(itertools.count().__next__, 2.0)  # one step in each turn
    turns, in_message = 0, list[int]()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> None:
        task = asyncio.ensure_future(others())
        try:
            await bench.uplink.run()
        finally:
            task.cancel()

    def answer(path: str, message: dict[str, Any]) -> Any:
        in_message.append(turns)
        bench.source.below = {name: {**entry, "state": "down"} for name, entry in bench.source.below.items()}
        return bench.as_node(path, message)

    bench.answer = answer
    bench.end = bench.clock.now + 3
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(both())
    assert len(in_message) >= 2
    assert all(after - before >= 50 for before, after in pairwise([0, *in_message]))
    assert {entry["state"] for entry in bench.table.children["site-a"].subtree.values()} == {"down"}


# -- lost contact ------------------------------------------------------------------------------------------------------


def test_the_node_registers_again_if_the_parent_forgot_it() -> None:
    bench = Bench()
    bench.at(10, lambda: bench.table.remove("site-a"))
    bench.run(20)
    assert len(bench.registrations) == 2
    assert bench.registrations[1] == pytest.approx(10, abs=1.5)
    assert bench.table.available_names() == {"site-a"}


@pytest.mark.parametrize(
    "failure",
    [
        refuse,
        lambda *_: httpx.Response(503),
        lambda *_: httpx.Response(200, text="<html>"),
        lambda *_: {"exist": "maybe"},
        lambda *_: [],
    ],
)
def test_after_a_lost_report_the_next_message_contains_everything(failure: Answer) -> None:
    bench = Bench()
    bench.at(10, lambda: setattr(bench, "answer", failure))
    bench.at(10, lambda: setattr(bench.source, "below", {"new": {"state": "up"}}))
    bench.at(30, lambda: setattr(bench, "answer", bench.as_node))
    bench.run(40)
    (child,) = bench.table
    assert child.subtree == bench.source.below
    assert bench.uplink.registered
    *_, last = [message for _, path, message in bench.heard if path == "/register_worker"]
    assert last["children"] == bench.source.below


def test_a_parent_learns_that_a_node_does_not_know_all_its_models() -> None:
    bench = Bench()
    bench.source.settling = True
    bench.at(5, lambda: setattr(bench.source, "settling", False))
    bench.run(10)
    told = [(path, message["incomplete"]) for when, path, message in bench.heard if when < 5 or when > 6.5]
    assert told[0] == ("/register_worker", True)
    assert {told for _, told in told if told} == {True}
    assert told[-1] == ("/receive_heart_beat", False)
    assert not bench.table.children["site-a"].incomplete


def test_draining_is_reported_at_once_and_reports_continue() -> None:
    bench = Bench(interval_s=5.0)

    def drain() -> None:
        bench.source.leaving = True
        bench.source.now = NodeStatus((), 0.0, 3)

    bench.at(10, drain)
    bench.run(9.9)
    assert not bench.uplink.reported_draining
    bench.run(60)
    assert 10 <= next(when for when, _, message in bench.heard if message["draining"]) <= 10.2
    assert bench.uplink.reported_draining
    child = bench.table.children["site-a"]
    assert child.state(bench.clock()) == "draining"
    assert bench.table.available_names() == set()
    assert len(bench.reports) >= 2


def test_a_node_whose_parent_cannot_be_reached_is_not_registered() -> None:
    bench = Bench()
    bench.at(10, lambda: setattr(bench, "answer", refuse))
    bench.run(20)
    assert not bench.uplink.registered


def test_a_parent_that_restarted_counts_its_requests_from_one() -> None:
    bench = Bench()
    bench.at(1, lambda: bench.uplink.believes(bench.table.children["site-a"].secret, 500))
    instance = {"node": "root", "instance": "root-2", "interval_s": 1.0}
    bench.at(10, lambda: setattr(bench, "answer", lambda path, _: {"exist": False} if "beat" in path else instance))
    bench.run(9)
    assert bench.uplink.seen == 500
    bench.run(10)
    assert bench.uplink.seen == 0


def test_a_request_that_arrives_before_the_response_to_the_registration_counts() -> None:
    bench = Bench()
    bench.run(0.1)
    secret = bench.table.children["site-a"].secret
    assert bench.uplink.believes(secret, 500)

    def restarted(path: str, message: dict[str, Any]) -> Any:
        if "beat" in path:
            return {"exist": False}
        bench.uplink.believes(secret, 1)  # the new parent is quick
        return {"node": "root", "instance": "root-2", "interval_s": 1.0}

    bench.answer = restarted
    bench.run(5)
    assert bench.uplink.seen == 1


steps = st.lists(st.tuples(subtrees, st.sampled_from(["fine", "before", "after", "forgot"])), max_size=10)


@given(steps)
def test_after_each_message_the_parent_has_the_current_subtree(changes: list[tuple[dict[str, Any], str]]) -> None:
    bench = Bench()
    failure = "fine"
    checked = 0

    def answer(path: str, message: dict[str, Any]) -> Any:
        nonlocal failure, checked
        kind, failure = failure, "fine"
        if kind == "before":
            raise httpx.ConnectTimeout("")
        if kind == "forgot":
            bench.table.remove("site-a")
        taken = bench.as_node(path, message)
        if "site-a" in bench.table.children:
            assert bench.table.children["site-a"].subtree == bench.source.below
            checked += 1
        if kind == "after":
            raise httpx.ReadTimeout("")
        return taken

    def change(below: dict[str, Any], what: str) -> None:
        nonlocal failure
        bench.source.below, failure = below, what

    bench.answer = answer
    for second, (below, what) in enumerate(changes, 1):
        bench.at(2.0 * second, lambda below=below, what=what: change(below, what))  # type: ignore[misc]
    bench.run(2.0 * len(changes) + 20)
    assert bench.table.children["site-a"].subtree == bench.source.below
    assert checked > len(changes)


# -- FastChat's controller, deregistration, secrets --------------------------------------------------------------------


def test_fastchats_controller_gets_heartbeats_and_a_registration_when_capacity_changes() -> None:
    bench = Bench()
    bench.answer = bench.as_fastchat
    bench.at(100, lambda: setattr(bench.source, "now", load(7)))
    bench.at(200, lambda: setattr(bench.source, "now", status_of(model(queue_length=7), model("n"))))
    bench.run(300)
    assert bench.registrations == pytest.approx([0, 200], abs=TICK_S + 1e-3)
    assert len(bench.reports) <= 300 / (FASTCHAT_INTERVAL_S * (1 - JITTER)) + 1
    assert all(
        later - sooner <= FASTCHAT_INTERVAL_S * (1 + JITTER) + 2 * TICK_S
        for sooner, later in pairwise(sorted([*bench.reports, *bench.registrations]))
    )
    assert bench.reports[-1] > 270
    for _, path, message in bench.heard:
        assert message["worker_name"] == SITE
        if path == "/register_worker":
            assert message["check_heart_beat"] is True
        else:
            assert isinstance(message["queue_length"], int)
    statuses = [message["worker_status"] for _, path, message in bench.heard if path == "/register_worker"]
    assert [status["model_names"] for status in statuses] == [["m"], ["m", "n"]]
    asyncio.run(bench.uplink.deregister())
    assert bench.count("/deregister_worker") == 0


def test_only_a_registered_node_deregisters_and_only_once() -> None:
    bench = Bench()
    asyncio.run(bench.uplink.deregister())
    assert bench.heard == []
    bench.run(1)
    for _ in range(2):
        asyncio.run(bench.uplink.deregister())
    assert bench.count("/deregister_worker") == 1
    assert (len(bench.table), bench.uplink.registered) == (0, False)


@pytest.mark.parametrize("failure", [refuse, lambda *_: httpx.Response(500), lambda *_: httpx.Response(200, text="x")])
def test_a_failed_deregistration_is_not_an_error(failure: Answer) -> None:
    bench = Bench().run(1)
    bench.answer = failure
    asyncio.run(bench.uplink.deregister())
    assert bench.count("/deregister_worker") == 1


def test_only_the_parents_secret_is_believed() -> None:
    bench = Bench().run(1)
    secret = bench.table.children["site-a"].secret
    assert len(secret) >= 32
    assert secret != next(iter(Bench().run(1).table)).secret
    for wrong in (b"", secret[:-1], secret + b"0", b"\xff" * len(secret), secret.upper()):
        assert not bench.uplink.believes(wrong, 10**6)
    assert bench.uplink.seen == 0
    for seq, seen in ((5, 5), (3, 5), (6, 6)):
        assert bench.uplink.believes(secret, seq)
        assert bench.uplink.seen == seen


# -- reverse links ---------------------------------------------------------------------------------------------------


class Listener:
    """Records its calls, and when they came."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.calls: list[tuple[float, str]] = []

    def accepted(self, accepted: Accepted) -> None:
        self.record(f"accepted {accepted.link} {accepted.links_per_s:g} {accepted.wanted}")

    def lost(self) -> None:
        self.record("lost")

    def record(self, what: str) -> None:
        self.calls.append((round(self.bench.clock.now - self.bench.start, 1), what))


def test_the_listener_gets_the_terms_and_each_loss() -> None:
    bench = Bench()
    listener = Listener(bench)
    bench.uplink.listen(listener)
    terms = {"node": "root", "instance": "i", "interval_s": 1.0, "link": "reverse", "links_per_s": 2.5, "wanted": 3}
    bench.answer = lambda path, message: terms if path == "/register_worker" else {"exist": True}
    bench.at(3, lambda: setattr(bench, "answer", refuse))
    bench.at(6, lambda: setattr(bench, "answer", lambda path, message: {**terms, "link": "direct"}))
    bench.run(15)
    calls = [what for _, what in listener.calls]
    assert calls[:3] == ["accepted reverse 2.5 3", "lost", "accepted direct 2.5 3"]
    assert listener.calls[0][0] == 0
    assert 3 <= listener.calls[1][0] < 4.5


def test_it_registers_again_on_request() -> None:
    bench = Bench(interval_s=60.0)
    bench.at(2, bench.uplink.register_again)
    bench.run(10)
    first, second = bench.registrations
    assert (first, 2 <= second < 2.5) == (0, True)


@pytest.mark.parametrize(
    "field", [{"links_per_s": "fast"}, {"link": "sideways"}, {"wanted": -1}, {"wanted": 1e99}, {"prefix_key": "xyz"}]
)
def test_terms_that_make_no_sense_are_refused(field: dict[str, Any]) -> None:
    bench = Bench()
    bench.answer = lambda path, message: {"node": "root", "instance": "i", **field}
    bench.run(5)
    assert not bench.uplink.registered
    assert bench.count("/receive_heart_beat") == 0


@pytest.mark.parametrize("as_what", ["fastchat", "older"])
def test_a_parent_without_reverse_links_is_logged(as_what: str, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.uplink._link = "reverse"
    if as_what == "fastchat":
        bench.answer = bench.as_fastchat
    bench.run(2)
    assert bench.uplink.registered
    assert "does not accept reverse links, so it must be able to dial http://site-a:21001" in caplog.text
    assert all(message["link"] == "reverse" for _, path, message in bench.heard if path == "/register_worker")


# -- records that instances share --------------------------------------------------------------------------------------

RECORD = Record("root", "drain", "site-b", 5)


def sent(bench: Bench) -> list[tuple[float, list[dict[str, Any]]]]:
    return [(when, message["shared"]) for when, _, message in bench.heard if message.get("shared")]


def test_a_record_of_another_instance_of_the_parent_is_passed_on_at_once_and_once() -> None:
    bench = Bench(interval_s=5.0)
    bench.at(10, lambda: bench.board.receive([RECORD], ["root"], "the other root"))
    bench.at(12, lambda: bench.board.receive([Record("elsewhere", "drain", "x", 5)], ["elsewhere"], "another parent"))
    bench.run(60)
    ((when, records),) = sent(bench)
    assert 10 <= when <= 10.2
    assert msgspec.convert(records, list[Record]) == [RECORD]


def test_after_a_registration_the_parent_gets_all_records_again() -> None:
    bench = Bench(interval_s=5.0)
    bench.board.receive([RECORD], ["root"], "the other root")
    bench.at(10, lambda: bench.table.remove("site-a"))
    bench.run(20)
    assert [len(records) for _, records in sent(bench)] == [1, 1]
    assert len(bench.registrations) == 2


def test_what_a_parent_sends_is_kept_and_not_sent_back() -> None:
    bench = Bench()
    bench.shared = [msgspec.to_builtins(RECORD), msgspec.to_builtins(Record("site-a", "drain", "gpu", 5))]
    bench.run(10)
    assert bench.board.news(0, ["root"])[0] == [RECORD]
    assert bench.board.news(0, ["site-a"])[0] == []  # this node has no other instances
    assert sent(bench) == []


@pytest.mark.parametrize(
    "shared", ["text", [5], [{"node": "root"}], [{**msgspec.to_builtins(RECORD), "changed_ms": -1}]]
)
def test_records_that_are_not_understood_are_logged_once_and_reports_continue(
    shared: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    bench.shared = shared
    bench.run(10)
    assert len(bench.registrations) == 1
    assert len([line for line in caplog.messages if "are not understood" in line]) == 1


def test_a_parent_that_has_no_time_gets_the_report_later(caplog: pytest.LogCaptureFixture) -> None:
    """It is not lost: what changed meanwhile is in the next report, and nothing is registered anew."""
    caplog.set_level(logging.WARNING)
    bench = Bench()
    busy = [False]

    def answer(path: str, message: dict[str, Any]) -> Any:
        if busy[0] and path == "/receive_heart_beat":
            return httpx.Response(429, headers={"retry-after": "7"}, json={"error": {"message": "it has no time"}})
        return bench.as_node(path, message)

    bench.answer = answer
    bench.at(10, lambda: busy.__setitem__(0, True))
    bench.at(11, lambda: setattr(bench.source, "now", load(50)))
    bench.at(40, lambda: busy.__setitem__(0, False))
    bench.run(60)
    assert len(bench.registrations) == 1
    assert 3 <= len([at for at in bench.reports if 10 < at < 40]) <= 5
    assert bench.table.children["site-a"].total.reported == 50
    assert len([line for line in caplog.messages if "no time for the reports" in line]) == 1
    assert not any(line.startswith("lost") for line in caplog.messages)


def test_labels_are_reported_whole_at_first_and_then_where_they_changed() -> None:
    bench = Bench()
    bench.source.offers = [Offer([{"region": "eu"}], ["m"])]
    bench.at(3, lambda: setattr(bench.source, "offers", [Offer([{"region": "us"}], ["m"])]))
    bench.at(6, lambda: setattr(bench.source, "offers", []))
    bench.run(9)
    said = [message["labels"] for _, _, message in bench.heard]
    assert said[0] == [{"sets": [{"region": "eu"}], "models": ["m"]}]
    assert [one for one in said[1:] if one is not None] == [[{"sets": [{"region": "us"}], "models": ["m"]}], []]
