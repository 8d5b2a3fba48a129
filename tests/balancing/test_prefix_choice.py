"""The policy `prefix`: a prompt goes where most of it is, unless too much waits there."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.balancing.prefix_choice import MANY, MATCH, NO_MATCH, SPREAD, STICKY, PrefixChoice
from hierarchy.prefix.fingerprint import Fingerprint, Hasher
from hierarchy.registry import Registry
from hierarchy.registry.child import Child, Lease
from hierarchy.wire.messages import Identity
from tests.builders import OPENAI, model, status_of
from tests.clocks import Clock

HASHER = Hasher(b"key")


def prompt(data: bytes) -> Fingerprint:
    fingerprint = HASHER.take([data], len(data))
    assert fingerprint is not None
    return fingerprint


class Engines:
    """A registry with so many engines that serve `m`, and a dispatch that chooses among them by prefix."""

    def __init__(self, count: int = 4, slots: int = 0, speeds: tuple[float, ...] = ()) -> None:
        self.registry = Registry(Identity("root", "http://root:21001", "root-1"), Clock())
        self.dispatch = Dispatch(self.registry, "prefix", Random(7))
        self.children = [self.registry.declare(f"e{n}", f"http://e{n}:1", "vllm") for n in range(count)]
        for child, speed in zip(self.children, speeds or (1.0,) * count, strict=True):
            self.registry.report(child, status_of(model(speed=speed, slots=slots)))

    @property
    def choice(self) -> PrefixChoice:
        assert self.dispatch.prefixes is not None
        return self.dispatch.prefixes

    def send(self, data: bytes) -> Lease:
        return self.dispatch.lease(OPENAI, prefix=prompt(data))

    def pending(self) -> list[int]:
        return [child.shares[OPENAI].pending for child in self.children]


def test_a_round_trip_costs_what_an_engine_reads_meanwhile() -> None:
    engines = Engines(2)
    near, far = (child.shares[OPENAI] for child in engines.children)
    far.child.round_trip.note(0.1, 0.0)  # 3,200 bytes: as two requests and a half
    leases = [engines.send(b"%d" % n * 300) for n in range(3)]
    assert [lease.share for lease in leases] == [near, near, near]
    assert engines.send(b"a" * 300).share is far
    for lease in leases:
        lease.release()


def test_a_child_that_looks_near_gets_no_more_than_a_neighbour() -> None:
    engines = Engines(4)
    engines.children[0].round_trip.note(-1.0, 0.0)  # it responds to pings at once, though it is far
    for child in engines.children[1:]:
        child.round_trip.note(0.002, 0.0)
    leases = [engines.send(b"%d" % number * 300) for number in range(40)]
    assert [child.in_flight for child in engines.children] == [10, 10, 10, 10]
    for lease in leases:
        lease.release()


def test_neighbours_share_what_nobody_has_read_whatever_their_round_trips_are() -> None:
    engines = Engines(4)
    for number, child in enumerate(engines.children):
        child.round_trip.note(0.0002 * (number + 1), 0.0)
    used = set()
    for number in range(4):
        lease = engines.send(b"%d" % number * 300)
        used.add(lease.share.child.name)
        lease.release()
    assert len(used) == 4


def test_a_match_is_worth_a_journey() -> None:
    engines = Engines(2)
    near, far = (child.shares[OPENAI] for child in engines.children)
    far.child.round_trip.note(0.1, 0.0)
    others = [near.child.lease(near) for _ in range(4)]
    document = b"document " * 1000
    assert engines.send(document).share is far
    for lease in others:
        lease.release()
    assert engines.send(b"another " * 100).share is near
    assert engines.send(document).share is far


def test_a_conversation_stays_with_its_engine() -> None:
    engines = Engines()
    for session in range(20):
        data, children = b"session %d " % session * 100, set[Child]()
        for turn in range(5):
            lease = engines.send(data)
            children.add(lease.share.child)
            lease.first_byte()
            lease.release()
            data += b"turn %d of %d " % (turn, session) * 20
        assert len(children) == 1
    assert engines.choice.reasons[NO_MATCH] == 20
    assert engines.choice.reasons[MATCH] == 80


def test_a_prompt_that_all_share_is_spread() -> None:
    engines = Engines()
    system = b"You are a helpful assistant. " * 20
    leases = [engines.send(system + b"question %d" % number * 60) for number in range(100)]
    counts = Counter(lease.share.child.name for lease in leases)
    assert min(counts.values()) >= 20
    assert engines.choice.reasons[SPREAD] > 0


def test_what_many_have_read_the_others_read_too() -> None:
    engines = Engines(5)
    start = b"s" * 30_000
    for child in engines.children[:2]:  # as when the first one was busy
        engines.choice.index.note(prompt(start), engines.choice.number(child))
    leases = [engines.send(start + b"%d" % number * 300) for number in range(10)]
    assert {lease.share.child for lease in leases} == set(engines.children)


def test_equals_are_chosen_in_turn() -> None:
    engines = Engines()
    names = []
    for number in range(8):
        lease = engines.dispatch.lease(OPENAI)
        names.append(lease.share.child.name)
        lease.release()
        assert number < 8
    assert names == ["e0", "e1", "e2", "e3"] * 2


def test_a_child_that_was_restarted_has_nothing() -> None:
    engines = Engines()
    lease = engines.send(b"x" * 5000)
    child = lease.share.child
    lease.release()
    engines.registry.mark_down(child, "gone")
    engines.registry.report(child, status_of(model()))
    engines.send(b"x" * 5000).release()
    assert engines.choice.reasons == {MATCH: 0, NO_MATCH: 2, SPREAD: 0, STICKY: 0}


def test_a_free_slot_comes_before_a_queue_on_a_fast_engine() -> None:
    engines = Engines(2, slots=2, speeds=(1.0, 4.0))
    leases = [engines.dispatch.lease(OPENAI) for _ in range(4)]
    assert Counter(lease.share.child.name for lease in leases) == {"e0": 2, "e1": 2}
    assert engines.dispatch.lease(OPENAI).share.child.name == "e1"


def test_one_child_costs_nothing() -> None:
    engines = Engines(1)
    lease = engines.send(b"x" * 5000)
    assert engines.pending() == [0]
    assert not len(engines.choice.index)
    assert lease.matched == 0
    assert not engines.dispatch.compares(OPENAI)


def test_what_knows_a_response_continues_it() -> None:
    engines = Engines()
    child = engines.children[2]
    engines.choice.answered(child, 77)
    for _ in range(10):  # however busy it is
        lease = engines.dispatch.lease(OPENAI, prefix=Fingerprint(500, (), 0, 77))
        assert lease.share.child is child
    assert engines.choice.reasons[STICKY] == 10
    engines.registry.mark_down(child, "gone")
    assert engines.dispatch.lease(OPENAI, prefix=Fingerprint(500, (), 0, 77)).share.child is not child


def test_entry_nodes_with_a_prior_send_a_session_to_the_same_child() -> None:
    several = [Engines(8) for _ in range(4)]
    for engines in several:
        engines.choice.prior = True
    for session in range(1, 50):
        fingerprint = prompt(b"session %d " % session * 100)
        fingerprint.session = HASHER.digest(b"%d" % session)
        names = set()
        for engines in several:
            lease = engines.dispatch.lease(OPENAI, prefix=fingerprint)
            names.add(lease.share.child.name)
            lease.release()
        assert len(names) == 1
    assert len({tuple(engines.pending()) for engines in several}) == 1


def test_a_session_that_the_client_names_goes_where_it_was_sent_last() -> None:
    engines = Engines()
    names = []
    for turn in range(4):
        fingerprint = prompt(b"turn %d " % turn * 100)
        fingerprint.session = 77
        lease = engines.dispatch.lease(OPENAI, prefix=fingerprint)
        names.append(lease.share.child.name)
        lease.release()
    assert len(set(names)) == 1


def test_of_many_children_the_one_that_matches_is_among_the_compared() -> None:
    engines = Engines(3 * MANY)
    for number in range(20):
        first = engines.send(b"%d " % number * 1000)
        first.release()
        assert engines.send(b"%d " % number * 1500).share.child is first.share.child


@given(st.lists(st.tuples(st.sampled_from(["send", "first", "end", "twice"]), st.integers(0, 30)), max_size=80))
def test_pending_bytes_balance(steps: list[tuple[str, int]]) -> None:
    engines, leases = Engines(3), list[Lease]()
    for step, number in steps:
        if step == "send" or not leases:
            leases.append(engines.send(b"%d " % number * 400))
        elif step == "first":
            leases[number % len(leases)].first_byte()
        else:
            lease = leases.pop(number % len(leases))
            lease.release()
            if step == "twice":
                lease.release()
                lease.first_byte()
        assert all(pending >= 0 for pending in engines.pending())
        assert sum(engines.pending()) == sum(lease.pending for lease in leases)
    for lease in leases:
        lease.release()
    assert engines.pending() == [0, 0, 0]
