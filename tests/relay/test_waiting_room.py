"""Requests that are held for a moment."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.config.models import Settings
from hierarchy.errors import ModelNotFound, RequestError, Unavailable
from hierarchy.http.promise import COMMENT_EVERY_S
from hierarchy.labels import Requirement
from hierarchy.registry.child import Child
from hierarchy.relay.waiting_room import FIRST_FEW, LOG_INTERVAL_S, MAX_BYTES, MAX_REQUESTS, WaitingRoom
from tests.builders import model, status_of
from tests.clocks import Clock

HOLD_S = 10.0
SOON = Unavailable("not now", patience_s=math.inf)


class Guest:
    """A request that is served if its model is available, and refused if it can be held no longer."""

    def __init__(self, rig: Rig, name: str = "m", size: int = 100, error: RequestError = SOON) -> None:
        self.held_until = 0.0
        self.name = name
        self.tries = 0
        self.outcome = ""
        self._rig = rig
        self._size = size
        self._error = error

    def try_again(self, now: float) -> None:
        self.tries += 1
        if self.name in self._rig.available:
            self.outcome = "served"
        elif not self._rig.room.hold(self, [self.name], self._size, self._error):
            self.outcome = "refused"


class Rig:
    """A room with a clock; what it wants to run a moment later waits for `turn`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.available: set[str] = set()
        self.soon: list[Callable[[], None]] = []
        self.room = WaitingRoom(self.clock, lambda name: name in self.available, HOLD_S, self.soon.append)

    def come(self, name: str = "m", size: int = 100, error: RequestError = SOON) -> Guest:
        guest = Guest(self, name, size, error)
        guest.try_again(self.clock())
        guest.tries = 0
        return guest

    def appear(self, name: str = "m", slots: int = 0, busy: int = 0) -> None:
        """A child that serves a model appears."""
        self.available.add(name)
        child = Child("a", "http://a:1", "vllm")
        child.report(status_of(model(name, queue_length=busy, slots=slots)), self.clock())
        self.room.appeared(child)

    def turn(self) -> None:
        soon, self.soon = self.soon[:], []
        self.room._call_soon = self.soon.append
        for work in soon:
            work()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_request_goes_on_as_soon_as_a_child_appears(rig: Rig) -> None:
    guest, other = rig.come(), rig.come("other")
    rig.appear()
    assert guest.outcome == ""  # not inside of the registration
    rig.turn()
    assert (guest.outcome, guest.tries) == ("served", 1)
    assert (other.outcome, other.tries) == ("", 0)
    assert len(rig.room) == 1


def test_the_first_child_that_comes_back_does_not_get_everything(rig: Rig) -> None:
    guests = [rig.come() for _ in range(10)]
    rig.appear(slots=4, busy=1)
    rig.turn()
    assert [guest.outcome for guest in guests] == ["served"] * 3 + [""] * 7  # the oldest
    rig.appear()
    rig.turn()
    assert [guest.outcome for guest in guests] == ["served"] * (3 + FIRST_FEW) + [""] * (7 - FIRST_FEW)
    rig.room.sweep()
    assert {guest.outcome for guest in guests} == {"served"}


def test_a_full_child_gets_one_at_once(rig: Rig) -> None:
    guests = [rig.come() for _ in range(2)]
    rig.appear(slots=4, busy=9)
    rig.turn()
    assert [guest.outcome for guest in guests] == ["served", ""]


def test_a_request_that_is_held_in_vain_is_refused_after_its_time(rig: Rig) -> None:
    guest = rig.come()
    for _ in range(19):
        rig.clock.tick(0.5)
        rig.room.sweep()
    assert (guest.outcome, guest.tries) == ("", 0)
    rig.clock.tick(0.5)
    rig.room.sweep()
    assert (guest.outcome, len(rig.room)) == ("refused", 0)


def test_a_second_failure_does_not_begin_the_time_anew(rig: Rig) -> None:
    guest = rig.come()
    rig.clock.tick(4.0)
    rig.room.leave(guest)
    assert rig.room.hold(guest, ["m"], 1, SOON)
    assert guest.held_until == rig.clock() + HOLD_S - 4.0


@pytest.mark.parametrize("error", [ModelNotFound("no"), Unavailable("full"), Unavailable("long gone", 30, 0.0)])
def test_what_will_not_pass_in_a_moment_is_not_held(rig: Rig, error: RequestError) -> None:
    assert rig.come(error=error).outcome == "refused"


def test_it_is_held_no_longer_than_its_model_is_worth(rig: Rig) -> None:
    assert rig.come(error=Unavailable("settling", 3, 2.5)).held_until == rig.clock() + 2.5


def test_nothing_is_held_where_that_is_not_wanted(rig: Rig) -> None:
    rig.room.hold_s = 0.0
    assert rig.come().outcome == "refused"


def test_the_number_of_requests_is_limited(rig: Rig) -> None:
    guests = [rig.come(f"made-up-{number}") for number in range(MAX_REQUESTS)]
    assert rig.come().outcome == "refused"
    rig.room.leave(guests[0])
    assert rig.come().outcome == ""


def test_the_bytes_of_their_bodies_are_limited(rig: Rig) -> None:
    half = MAX_BYTES // 2
    first, second = rig.come(size=half), rig.come(size=half)
    assert rig.come(size=1).outcome == "refused"
    for guest in (first, second, second):
        rig.room.leave(guest)
    assert rig.come(size=MAX_BYTES).outcome == ""


def test_a_client_that_leaves_while_others_are_served(rig: Rig) -> None:
    first, second = rig.come(), rig.come()
    first.try_again = lambda now: rig.room.leave(second)  # type: ignore[method-assign]
    rig.appear()
    rig.turn()
    assert (second.tries, len(rig.room)) == (0, 0)


@given(
    st.lists(st.tuples(st.sampled_from(["come", "leave", "appear", "sweep", "turn"]), st.integers(0, 9)), max_size=60)
)
def test_whatever_happens_the_counts_balance(steps: list[tuple[str, int]]) -> None:
    rig = Rig()
    guests: list[Guest] = []
    for step, number in steps:
        rig.clock.tick(number / 4)
        if step == "come":
            guests.append(rig.come(f"m{number % 3}", size=number))
        elif step == "leave" and guests:
            guest = guests[number % len(guests)]
            rig.room.leave(guest)
            guest.outcome = guest.outcome or "left"
        elif step == "appear":
            rig.appear(f"m{number % 3}", slots=number)
        elif step == "sweep":
            rig.room.sweep()
        else:
            rig.turn()
        held = [guest for guest in guests if not guest.outcome]
        assert len(rig.room) == len(held)
        assert rig.room._bytes == sum(guest._size for guest in held)
    rig.clock.tick(HOLD_S)
    rig.room.sweep()
    assert (len(rig.room), rig.room._bytes) == (0, 0)


def test_it_is_logged_when_it_begins_and_when_it_is_over(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    guests = [rig.come() for _ in range(5)]
    for guest in guests:
        rig.room.leave(guest)
    rig.room.sweep()
    again = rig.come()
    rig.room.sweep()
    assert caplog.messages == ["requests are held: not now"], "one that came back at once is still held"
    rig.room.leave(again)
    for _ in range(3):
        rig.room.sweep()
    assert caplog.messages == ["requests are held: not now", "no request is held any more, after 6"]
    rig.room.leave(rig.come())
    assert len(caplog.messages) == 2  # clients must not fill the log
    rig.clock.tick(LOG_INTERVAL_S)
    rig.come()
    assert len(caplog.messages) == 3


def test_nothing_has_to_be_sent_while_a_request_is_held() -> None:
    """The first comment of a stream is due later than the end of the longest hold."""
    with pytest.raises(ValueError, match="hold_s"):
        Settings(hold_s=COMMENT_EVERY_S)


def test_a_child_that_has_not_what_is_required_takes_no_request_and_no_place_of_others() -> None:
    rig, in_eu = Rig(), Requirement({"region": "eu"})
    picky, plain = Guest(rig), Guest(rig)
    assert rig.room.hold(picky, ["m"], 1, SOON, in_eu)
    assert rig.room.hold(plain, ["m"], 1, SOON)
    for labels, tries in (({"region": "us"}, [0, 1]), ({"region": "eu"}, [1, 1])):
        child = Child("gpu", "http://gpu:1", "vllm", declared=True)
        child.labels.bind(labels)
        child.report(status_of(model(slots=1)), rig.clock())
        rig.room.appeared(child)
        for work in rig.soon:
            work()
        rig.soon.clear()
        assert [picky.tries, plain.tries] == tries
