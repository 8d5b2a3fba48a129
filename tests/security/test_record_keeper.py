"""An instance of a parent: exchanging records with another one, and records that are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from hierarchy.errors import InvalidToken, Unavailable
from hierarchy.gossip import Board
from hierarchy.security.exchange_page import PageSigner
from hierarchy.security.record_keeper import REVOKED, USED, YOUNG_S, Peer, RecordKeeper
from hierarchy.security.token_store import TokenStore
from tests.clocks import Clock
from tests.support import at_once

KEY = b"k" * 32


class Instance:
    """One instance, with a clock."""

    def __init__(self, folder: Path, name: str, clock: Clock, *, has_peers: bool = False) -> None:
        self.store = TokenStore(folder / name / "state.json", clock)
        self.signer = PageSigner("root", KEY, f"{name}-1", clock)
        self.keeper = RecordKeeper(self.store, self.signer, clock, has_peers=has_peers)
        self.board = Board("root", (KEY,), now=clock)
        self.keeper.share(self.board)
        self.peer = Peer()

    def exchange_with(self, other: Instance) -> bool:
        page, last = self.keeper.request(self.peer)
        return self.keeper.received(self.peer, last, other.keeper.respond(page))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def one(tmp_path: Path, clock: Clock) -> Instance:
    return Instance(tmp_path, "one", clock)


@pytest.fixture
def two(tmp_path: Path, clock: Clock) -> Instance:
    return Instance(tmp_path, "two", clock)


def test_both_have_all_records_after_one_exchange(one: Instance, two: Instance) -> None:
    assert at_once(one.keeper.use("t", 2000.0, "p"))
    assert not at_once(one.keeper.use("t", 2000.0, "q"))
    two.keeper.revoke("site-a")
    assert not one.exchange_with(two)
    for instance in (one, two):
        assert (instance.store.used_by("t"), instance.store.is_revoked("site-a", 1.0)) == ("p", True)
    assert (one.keeper.changed(), one.keeper.changed(), two.keeper.changed()) == (True, False, False)
    before = one.board.revision, two.board.revision
    one.exchange_with(two)
    two.exchange_with(one)
    assert (one.board.revision, two.board.revision) == before, "nothing goes to and fro"


def test_long_lists_take_several_exchanges(one: Instance, two: Instance) -> None:
    for number in range(500):
        two.board.publish(REVOKED, f"site-{number}", {"at": 5.0})
    times = 1
    while one.exchange_with(two):
        times += 1
    assert 3 <= times <= 8
    assert all(one.store.is_revoked(f"site-{number}", 1.0) for number in range(500))


def test_a_token_is_forgotten_by_all_when_it_expires(tmp_path: Path, clock: Clock, one: Instance) -> None:
    at_once(one.keeper.use("t", clock() + 10, "p"))
    clock.tick(11)
    late = Instance(tmp_path, "late", clock)
    late.exchange_with(one)
    assert late.store.used() == one.store.used() == {}
    assert late.board.find(USED, "t") is None


def test_what_is_in_the_store_is_shared_at_the_start(
    tmp_path: Path, clock: Clock, one: Instance, two: Instance
) -> None:
    at_once(one.keeper.use("t", 2000.0, "p"))
    one.keeper.revoke("site-a")
    at_once(one.keeper.save())
    restarted = Instance(tmp_path, "one", clock)
    two.exchange_with(restarted)
    assert (two.store.used_by("t"), two.store.is_revoked("site-a", 1.0)) == ("p", True)


def test_what_was_shared_before_a_restart_is_in_the_store_again(one: Instance, two: Instance) -> None:
    one.keeper.revoke("site-a")
    two.keeper.share(one.board)
    assert two.store.is_revoked("site-a", 1.0)


def test_a_request_of_another_instance_must_be_made_now(one: Instance, two: Instance, clock: Clock) -> None:
    page, _ = one.keeper.request(one.peer)
    clock.tick(301)
    with pytest.raises(InvalidToken, match="clocks of both machines"):
        two.keeper.respond(page)
    with pytest.raises(InvalidToken, match="not the request"):
        two.keeper.respond(one.signer.sign([], 0))


def test_a_response_must_be_the_one_to_the_last_request(one: Instance, two: Instance) -> None:
    first, last = one.keeper.request(one.peer)
    old = two.keeper.respond(first)
    request, _ = one.keeper.request(one.peer)
    for page in (old, request, one.signer.sign([], 0)):
        with pytest.raises(InvalidToken, match="not the response"):
            one.keeper.received(one.peer, last, page)


def test_another_process_of_the_other_instance_gets_everything_again(
    tmp_path: Path, clock: Clock, one: Instance, two: Instance
) -> None:
    one.keeper.revoke("site-a")
    one.exchange_with(two)
    one.exchange_with(two)
    assert one.peer.sent == one.board.revision
    new = Instance(tmp_path, "new", clock)
    one.exchange_with(new)
    one.exchange_with(new)
    assert new.store.is_revoked("site-a", 1.0)


def test_two_processes_with_one_token_are_reported_once_and_both_instances_keep_the_same(
    one: Instance, two: Instance, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    at_once(one.keeper.use("t", 2000.0, "q"))
    clock.tick(0.5)
    at_once(two.keeper.use("t", 2000.0, "p"))
    for _ in range(3):
        one.exchange_with(two)
        two.exchange_with(one)
    assert (one.store.used_by("t"), two.store.used_by("t")) == ("p", "p")
    messages = [record.message for record in caplog.records if "used by two processes" in record.message]
    assert len(messages) == 1


@pytest.mark.parametrize("value", [{}, {"at": "x"}, {"process": 3, "expires": 5.0}])
def test_a_record_of_a_later_release_is_ignored(one: Instance, value: dict[str, object]) -> None:
    one.board.publish(REVOKED, "site-a", value)
    one.board.publish(USED, "t", value)
    assert (one.store.revoked(), one.store.used()) == ({}, {})


# missing records


def test_a_credential_that_is_older_than_the_records_shows_that_some_are_missing(
    one: Instance, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    one.store.note_credential(clock())
    assert (one.keeper.may_renew, one.keeper.problem()) == (True, "")
    one.store.note_credential(clock() - 1)
    one.store.refresh()
    assert not one.keeper.may_renew
    for _ in range(3):
        one.keeper.report_problem()
    assert len(caplog.records) == 1
    assert "1970-01-01 00:16 UTC" in one.keeper.problem()
    with pytest.raises(Unavailable, match="lost its records"):
        one.keeper.check_join(clock() + 1)
    assert TokenStore(one.store.path, clock).is_incomplete, "also after a restart"
    assert at_once(one.keeper.confirm())
    one.keeper.check_join(clock() - 1)
    one.keeper.report_problem()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING", "WARNING"]
    assert not TokenStore(one.store.path, clock).is_incomplete
    assert not at_once(one.keeper.confirm())


def test_an_older_token_waits_while_children_could_show_credentials(one: Instance, clock: Clock) -> None:
    made = clock() - 1
    with pytest.raises(Unavailable, match="in a few seconds"):
        one.keeper.check_join(made)
    one.keeper.check_join(clock())
    clock.tick(YOUNG_S)
    one.keeper.check_join(made)


def test_an_older_token_waits_for_the_other_instances(tmp_path: Path, clock: Clock) -> None:
    waiting = Instance(tmp_path, "waiting", clock, has_peers=True)
    made = clock() - 1
    clock.tick(YOUNG_S)
    waiting.store.note_credential(made)
    assert waiting.keeper.problem() == "", "not before the others were asked"
    assert not waiting.keeper.may_renew
    waiting.keeper.peers_were_asked()
    assert waiting.keeper.problem()


def test_an_instance_with_all_records_makes_those_of_another_complete(
    tmp_path: Path, clock: Clock, one: Instance
) -> None:
    one.keeper.revoke("site-a")
    issued = clock()
    clock.tick(1)
    lost = Instance(tmp_path, "lost", clock)
    lost.store.note_credential(issued)
    assert lost.store.is_incomplete
    also_lost = Instance(tmp_path, "also-lost", clock)
    also_lost.store.note_credential(issued)
    lost.exchange_with(also_lost)
    assert lost.store.is_incomplete, "the other one has no more"
    lost.peer = Peer()
    lost.exchange_with(one)
    assert not lost.store.is_incomplete
    lost.store.refresh()
    assert not TokenStore(lost.store.path, clock).is_incomplete


def test_a_part_of_the_records_does_not_make_them_complete(tmp_path: Path, clock: Clock, one: Instance) -> None:
    for number in range(200):
        one.board.publish(REVOKED, f"site-{number}", {"at": 5.0})
    issued = clock()
    clock.tick(1)
    lost = Instance(tmp_path, "lost", clock)
    lost.store.note_credential(issued)
    assert lost.exchange_with(one)
    assert lost.store.is_incomplete
    lost.exchange_with(one)
    assert not lost.store.is_incomplete
