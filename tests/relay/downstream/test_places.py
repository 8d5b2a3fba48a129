"""Who may be connected when connections are scarce: shares of addresses, and who goes first."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.relay.downstream.places import LEAST_PER_ADDRESS, PAUSE_S, Places, address_of
from hierarchy.relay.warnings import Warnings
from hierarchy.runtime.descriptors import Descriptors
from tests.clocks import Clock
from tests.relay.raw import FakeTransport


class Fake:
    """A connection, as far as `Places` looks at one."""

    def __init__(self, peer: str, *, used: bool = False, idle: bool = True) -> None:
        self.peer, self.used, self.is_idle = peer, used, idle
        self.transport = FakeTransport()

    @property
    def aborted(self) -> bool:
        return self.transport.state == "aborted"


class Hall:
    """Places of a process with so many descriptors, each the lowest that is free, as the kernel gives them."""

    def __init__(self, limit: int = 256, most: int | None = None) -> None:
        self.clock = Clock()
        self.descriptors = Descriptors(limit)
        self.places = Places(self.descriptors, Warnings(self.clock), self.clock, most)
        self.numbers: dict[Fake, int] = {}

    def open(self, peer: str = "1.1.1.1", **state: bool) -> Fake | None:
        """A new connection; None if it was refused."""
        one = Fake(peer, **state)
        taken = set(self.numbers.values())
        number = next(number for number in range(10, 10**6) if number not in taken)
        self.numbers[one] = number
        entered = self.places.add(one, number)
        for closed in [other for other in self.numbers if other.aborted]:
            del self.numbers[closed]
        if not entered:
            self.numbers.pop(one, None)
        return one if entered else None

    def leave(self, one: Fake) -> None:
        self.places.discard(one)
        self.numbers.pop(one, None)


def test_one_address_alone_gets_half_and_another_one_still_comes_in() -> None:
    hall = Hall()
    busy = 0
    while hall.open("1.1.1.1", used=True, idle=False):
        busy += 1
    assert 0.4 * hall.descriptors.for_clients <= busy <= 0.55 * hall.descriptors.for_clients
    assert hall.places.refused == 1
    assert all(hall.open("2.2.2.2", used=True, idle=False) for _ in range(busy // 4))


def test_an_address_over_its_share_loses_its_own_idle_connections_and_that_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Descriptors never run short then, so that nothing else would say why connections were closed."""
    hall = Hall()
    other = hall.open("2.2.2.2")
    with caplog.at_level(logging.WARNING):
        mine = [hall.open("1.1.1.1") for _ in range(300)]
    assert other is not None
    assert not other.aborted
    assert None not in mine
    assert mine[0] is not None
    assert mine[0].aborted  # the oldest
    assert mine[-1] is not None
    assert not mine[-1].aborted
    assert [record.getMessage() for record in caplog.records] == [
        "1.1.1.1 has more connections than are left for all others: idle ones of it are closed"
    ]


def test_a_refusal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    hall = Hall(most=3)
    with caplog.at_level(logging.WARNING):
        assert [hall.open(used=True, idle=False) is not None for _ in range(5)] == [True] * 3 + [False] * 2
    assert "1.1.1.1 has more connections than are left for all others: its new ones are refused" in caplog.text
    assert len(caplog.records) == 1


def test_connections_that_never_sent_a_request_go_before_idle_ones() -> None:
    hall = Hall(most=4)
    first, stranger = hall.open(used=True), hall.open(used=False)
    hall.open(used=True, idle=False)
    hall.open(used=True, idle=False)
    assert first is not None
    assert stranger is not None
    assert hall.open(used=True, idle=False)
    assert stranger.aborted
    assert not first.aborted
    assert hall.open(used=True, idle=False)
    assert first.aborted
    assert hall.open() is None  # a connection with a request is never closed for another one


def test_when_descriptors_run_short_the_address_with_the_most_loses_some(caplog: pytest.LogCaptureFixture) -> None:
    hall = Hall()
    few = [hall.open("2.2.2.2") for _ in range(3)]
    many = [hall.open("1.1.1.1") for _ in range(50)]
    with caplog.at_level(logging.WARNING):
        hall.descriptors.note(hall.descriptors.for_clients)
    assert sum(one is not None and one.aborted for one in many) == 1 + 53 // 16
    assert not any(one is None or one.aborted for one in few)
    assert "few file descriptors are left" in caplog.text


def test_where_nothing_can_be_closed_new_connections_are_refused_and_not_all_others_looked_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hall = Hall(limit=64)
    number = 0
    while hall.open(f"10.0.0.{number}", used=True, idle=False):
        number += 1
    assert len(hall.places) == number
    assert "out of file descriptors: new connections are refused" in caplog.text
    looked = Fake("9.9.9.9")
    hall.places._by_address["9.9.9.9"] = {looked: None}
    hall.places._make_room()
    assert not looked.aborted  # the last look was just now
    hall.clock.tick(PAUSE_S)
    hall.places._make_room()
    assert looked.aborted


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("", ""),
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1::9", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no:address", "no:address"),
    ],
)
def test_the_part_of_an_address_that_one_client_has_for_itself(peer: str, address: str) -> None:
    assert address_of(peer) == address


@given(
    st.lists(st.tuples(st.sampled_from(["1.1.1.1", "2.2.2.2", "::1"]), st.booleans(), st.booleans()), max_size=120),
    st.sampled_from([None, 1, 5]),
    st.randoms(use_true_random=False),
)
def test_the_count_balances(script: list[tuple[str, bool, bool]], most: int | None, random: Any) -> None:
    """Whoever comes, is refused, is closed for another one or leaves: at the end there is none."""
    hall = Hall(limit=72, most=most)
    for peer, used, idle in script:
        hall.open(peer, used=used, idle=idle)
        if hall.numbers and random.random() < 0.3:
            hall.leave(random.choice(list(hall.numbers)))
        hall.clock.tick(0.02)
        assert len(hall.places) == len(hall.numbers) == sum(map(len, hall.places._by_address.values()))
        if most is not None:
            assert all(len(own) <= most for own in hall.places._by_address.values())
    for one in list(hall.numbers):
        hall.leave(one)
        hall.leave(one)
    assert len(hall.places) == 0
    assert hall.places._by_address == {}


def test_any_address_has_a_few_places() -> None:
    hall = Hall()
    hall.descriptors.newest = hall.descriptors.for_clients  # none is free, as far as that shows
    assert hall.places._most() == LEAST_PER_ADDRESS
