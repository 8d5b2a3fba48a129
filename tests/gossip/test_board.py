"""Records that the instances of a node share: signed, newest wins, each sent once, carried by parents and children."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.gossip import Board, RecordFile
from hierarchy.gossip.board import MAX_AHEAD_MS, MAX_RECORDS, MAX_SENT
from hierarchy.wire.record import Record
from tests.support import at_once

KEYS = (b"k" * 32,)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def pass_on(source: Board, target: Board, *names: str, since: int = 0) -> int:
    """Send what is new at `source`, through JSON as in a message. Returns the revision reached."""
    records, reached = source.news(since, names)
    target.receive(msgspec.json.decode(msgspec.json.encode(records), type=list[Record]), names, "peer")
    return reached


def values(board: Board) -> dict[str, object]:
    return {record.key: record.value for record in board.subscribe("t", lambda record, from_other: None)}


@pytest.mark.parametrize("keys", [KEYS, ()])
def test_a_child_carries_a_record_from_one_instance_of_its_parent_to_the_other(keys: tuple[bytes, ...]) -> None:
    first, second, child = Board("root", keys), Board("root", keys), Board("site")
    heard: list[tuple[str, bool]] = []
    second.subscribe("t", lambda record, from_other: heard.append((record.key, from_other)))
    first.publish("t", "gpu", {"reason": "é"})
    assert at_once(first.save()) is False
    assert pass_on(first, child, "root") == first.revision
    assert values(child) == {}
    pass_on(child, second, "root")
    assert values(second) == values(first) == {"gpu": {"reason": "é"}}
    assert heard == [("gpu", True)]
    pass_on(child, second, "root")
    assert heard == [("gpu", True)]
    assert first.news(first.revision, ["root"]) == ([], first.revision)


@pytest.mark.parametrize("keys", [KEYS, ()])
def test_a_record_that_is_no_json_is_ignored(keys: tuple[bytes, ...], caplog: pytest.LogCaptureFixture) -> None:
    """Python's parser accepts half of a surrogate pair, and a message of a child may have one."""
    board = Board("root", keys)
    board.publish("t", "gpu", {"on": True})
    bad: list[dict[str, object]] = [{"x": "\ud800"}, {"\ud800": {}}, {"x": float("nan")}, {"x": 10**400}]
    for value in bad:
        board.receive([Record("root", "t", "gpu", 2**50, value)], ["root"], "site")
    board.receive(
        [Record("root", "t", "\ud800", 2**50, {}), Record("root", "t", "x", 2**50, mac="\ud800")], ["root"], "site"
    )
    assert values(board) == {"gpu": {"on": True}}
    assert "is ignored" in caplog.text


def test_an_instance_whose_clock_is_behind_still_ends_what_another_began() -> None:
    ahead, behind = Clock(), Clock()
    ahead.now += 3600
    first, second = Board("root", KEYS, now=ahead), Board("root", KEYS, now=behind)
    first.publish("t", "gpu", {"on": True})
    pass_on(first, second, "root")
    second.publish("t", "gpu", {"on": False}, ended=True)
    pass_on(second, first, "root")
    assert values(first) == values(second) == {"gpu": {"on": False}}
    pass_on(Board("root", KEYS), first, "root")


@pytest.mark.parametrize(
    ("record", "names", "logged"),
    [
        (Record("root", "t", "k", 5), ("root",), "not signed with this node's key"),
        (Record("root", "t", "k", 5).signed(b"other" * 8), ("root",), "not signed with this node's key"),
        (msgspec.structs.replace(Record("root", "t", "k", 5).signed(KEYS[0]), key="x"), ("root",), "not signed"),
        (Record("root", "t", "k", 10**12 + MAX_AHEAD_MS).signed(KEYS[0]), ("root",), "from the future"),
        (Record("root", "t", "k", 5, {"a": float("nan")}).signed(KEYS[0]), ("root",), "JSON cannot carry"),
        (Record("root", "t", "k", 5, {"a": "x" * 5000}).signed(KEYS[0]), ("root",), "is larger than"),
        (Record("other", "t", "k", 5), ("root",), ""),
        (Record("root", "t", "k", 5).signed(KEYS[0]), ("site",), ""),
    ],
)
def test_what_this_node_or_its_peer_may_not_say_is_ignored_and_logged_once(
    record: Record, names: tuple[str, ...], logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    board = Board("root", KEYS, now=Clock())
    for _ in range(3):
        board.receive([record], names, "site-a")
    assert (board.revision, values(board)) == (0, {})
    assert [logged in line for line in caplog.messages] == ([True] if logged else [])


def test_a_board_is_bounded_and_forgets_what_has_ended_first(caplog: pytest.LogCaptureFixture) -> None:
    board = Board("root", now=Clock())
    for start in range(0, MAX_RECORDS, MAX_SENT):
        board.receive(
            [Record("root", "t", str(n), n, ended=n == 7) for n in range(start, start + MAX_SENT)], ["root"], "s"
        )
    board.receive([Record("root", "t", "one more", 5)], ["root"], "s")
    assert "7" not in values(board)
    board.receive([Record("root", "t", "too many", 5)], ["root"], "s")
    assert "too many" not in values(board)
    assert caplog.messages == [f"a shared record from s is ignored: {MAX_RECORDS} others are known"]
    sent, reached = board.news(0, ["root"])
    assert len(sent) == MAX_SENT
    assert reached < board.revision
    assert board.news(reached, ["root"])[0][0] not in sent


steps = st.lists(
    st.tuples(st.sampled_from(["write", "pass", "time"]), st.integers(0, 2), st.sampled_from("abc"), st.integers(0, 2)),
    max_size=30,
)


@given(steps)
def test_all_instances_agree_in_the_end_whatever_came_in_which_order(plan: list[tuple[str, int, str, int]]) -> None:
    clocks = [Clock() for _ in range(3)]
    boards = [Board("root", KEYS, now=clock) for clock in clocks]
    for what, at, detail, value in plan:
        if what == "write":
            boards[at].publish("t", detail, {"v": value}, ended=value == 0)
            assert values(boards[at])[detail] == {"v": value}
        elif what == "pass":
            pass_on(boards[at], boards[value], "root")
        else:
            clocks[at].now += value - 1
    for _ in range(2):
        for source in boards:
            for target in boards:
                pass_on(source, target, "root")
    assert values(boards[0]) == values(boards[1]) == values(boards[2])


# -- on disk -----------------------------------------------------------------------------------------------------------


def test_records_outlast_a_restart_also_with_a_new_key(tmp_path: Path) -> None:
    path = tmp_path / "root" / "shared.json"
    board = Board("root", KEYS, RecordFile(path))
    board.publish("t", "gpu", {"v": 1})
    assert at_once(board.save()) is True
    assert path.stat().st_mode & 0o777 == 0o600
    again = Board("root", (b"n" * 32,), RecordFile(path))
    assert values(again) == {"gpu": {"v": 1}}
    other = Board("root", (b"n" * 32,))
    pass_on(again, other, "root")
    assert values(other) == {"gpu": {"v": 1}}
    assert values(Board("site", KEYS, RecordFile(path))) == {}


def test_instances_with_one_file_see_each_others_records_and_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "shared.json"
    first, second = (Board("root", KEYS, RecordFile(path)) for _ in range(2))
    first.publish("t", "a", {"v": 1})
    second.publish("t", "b", {"v": 2})
    assert at_once(first.save())
    assert at_once(second.save())
    assert values(second) == {"a": {"v": 1}, "b": {"v": 2}}
    at_once(first.refresh())
    assert values(first) == values(Board("root", KEYS, RecordFile(path))) == values(second)
    revision = first.revision
    at_once(first.refresh())
    assert first.revision == revision


@pytest.mark.parametrize("content", ["[{", "{}", '[{"node": "root"}]', "[[[[", "\x00\xff"])
def test_a_damaged_file_is_moved_aside_and_said(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "shared.json"
    path.write_text(content)
    board = Board("root", KEYS, RecordFile(path))
    assert values(board) == {}
    assert [line.partition(": ")[2] for line in caplog.messages] == [
        "is damaged, moved to shared.damaged; nothing of it is in force: drain again"
    ]
    assert path.with_suffix(".damaged").read_text() == content
    board.publish("t", "gpu", {})
    assert at_once(board.save()) is True


def test_a_file_that_cannot_be_written_is_said_and_the_record_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    board = Board("root", KEYS, RecordFile(tmp_path / "file" / "shared.json"))
    caplog.clear()
    board.publish("t", "gpu", {"v": 1})
    assert at_once(board.save()) is False
    assert values(board) == {"gpu": {"v": 1}}
    assert "cannot be written" in caplog.messages[0]


def test_a_record_is_forgotten_by_all_when_its_time_is_over(tmp_path: Path) -> None:
    clock = Clock()
    file = RecordFile(tmp_path / "shared.json")
    first, second, child = Board("root", KEYS, file, clock), Board("root", KEYS, now=clock), Board("site", now=clock)
    first.publish("t", "short", {}, until_ms=int(clock.now * 1000) + 5000)
    first.publish("t", "long", {})
    pass_on(first, child, "root")
    clock.now += 5
    pass_on(child, second, "root")
    assert list(values(second)) == ["long"]
    first.publish("t", "another", {})
    assert at_once(first.save())
    assert sorted(record.key for record in file.read()) == ["another", "long"]
    assert sorted(values(Board("root", KEYS, file, clock))) == ["another", "long"]
    for number in range(MAX_RECORDS):
        second.publish("t", f"{number}", {}, until_ms=int(clock.now * 1000) + 1)
    clock.now += 1
    pass_on(first, second, "root")
    assert "another" in values(second), "what is over makes room"


def test_the_records_of_a_message_can_be_limited_by_their_size() -> None:
    board = Board("root", KEYS)
    for number in range(10):
        board.publish("t", f"{number}", {"v": "x" * 1000})
    sent, since = [], 0
    while since < board.revision:
        records, since = board.news(since, ("root",), 3000)
        assert 1 <= len(records) <= 3
        sent += [record.key for record in records]
    assert sent == [f"{number}" for number in range(10)]
    assert len(board.news(0, ("root",), 1)[0]) == 1, "one that is too large is sent all the same"


def test_what_is_kept_for_ever_takes_the_place_of_what_is_forgotten_soonest() -> None:
    clock = Clock()
    first, second = Board("root", KEYS, now=clock), Board("root", KEYS, now=clock)
    end_ms = int(clock.now * 1000) + 10_000
    for number in range(MAX_RECORDS):
        second.publish("t", f"{number}", {}, until_ms=end_ms + number)
    first.publish("t", "another", {}, until_ms=end_ms)
    first.publish("t", "for ever", {})
    pass_on(first, second, "root")
    assert {"0", "another"}.isdisjoint(values(second))
    assert {"1", "for ever"} <= set(values(second))


def test_a_carrier_takes_the_signature_of_a_key_that_replaced_another(tmp_path: Path) -> None:
    file, new = RecordFile(tmp_path / "shared.json"), (b"n" * 32,)
    old, child = Board("root", KEYS, file), Board("site")
    old.publish("t", "gpu", {})
    assert at_once(old.save())
    pass_on(old, child, "root")
    restarted, empty = Board("root", new, file), Board("root", new)
    reached = child.revision
    pass_on(restarted, child, "root")
    pass_on(restarted, child, "root")
    assert child.revision == reached + 1, "once"
    pass_on(child, empty, "root")
    assert list(values(empty)) == ["gpu"]
