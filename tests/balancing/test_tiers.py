"""Tiers: the preferred children get all requests until the wait there is longer, with every policy."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.balancing.policy import POLICIES
from hierarchy.balancing.tiers import MANY, kept
from hierarchy.errors import Unavailable
from hierarchy.prefix.fingerprint import Hasher
from hierarchy.registry import Registry
from hierarchy.registry.child import Lease
from hierarchy.registry.drain import Drain
from hierarchy.wire.messages import Identity
from tests.builders import OPENAI, eject, model, registration, site, status_of
from tests.clocks import Clock

SPILL_S = 2.0


class Tree:
    """A registry with engines `near`, `far` and `cloud` of 4 slots each, which are preferred in this order."""

    def __init__(self, policy: str = "shortest_queue", *names: str, prefer: tuple[tuple[str, ...], ...] = ()) -> None:
        self.clock = Clock()
        self.registry = Registry(Identity("root", "http://root:21001", "root-1"), self.clock)
        self.dispatch = Dispatch(self.registry, policy, Random(7))
        for name in names or ("near", "far", "cloud"):
            child = self.registry.declare(name, f"http://{name}:1", "vllm")
            self.registry.report(child, status_of(model(slots=4)))
        self.dispatch.set_tiers(prefer or (("near",), ("far",), ("cloud",)), SPILL_S)

    def lease(self, count: int = 1) -> list[Lease]:
        return [self.dispatch.lease(OPENAI) for _ in range(count)]

    def next(self, *tried: str) -> str:
        return self.dispatch.choose(OPENAI, [self.registry.children[name] for name in tried]).child.name

    def used(self, count: int) -> Counter[str]:
        return Counter(lease.share.child.name for lease in self.lease(count))

    def tick(self, seconds: float) -> None:
        self.clock.tick(seconds)
        self.dispatch.sweep_tiers()


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        ([0.0], 0),
        ([2.0, 0.0], 0),
        ([2.1, 0.0], 1),
        ([9.0, 8.0], 0),
        ([9.0, 8.0, 0.0], 2),  # and the second one is too long, too
        ([3.0, 0.5, 0.0], 1),
        ([math.inf, 1.0], 1),
        ([0.0, 5.0, 0.0], 0),
    ],
)
def test_a_tier_is_left_when_a_later_one_waits_for_less_by_the_threshold(waits: list[float], expected: int) -> None:
    assert kept(waits, SPILL_S) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8), st.floats(0, 100))
def test_none_waits_for_much_longer_than_it_had_to(waits: list[float], spill_after_s: float) -> None:
    at = kept(waits, spill_after_s)
    assert all(waits[at] - wait <= spill_after_s for wait in waits[at:])
    assert at == 0 or any(wait - waits[at] > spill_after_s for wait in waits[:at])


@pytest.mark.parametrize("policy", POLICIES)
def test_the_preferred_child_gets_all_until_it_waits_for_longer_and_then_again(policy: str) -> None:
    tree = Tree(policy)
    near = tree.lease(4)  # its slots
    assert {lease.share.child.name for lease in near} == {"near"}
    spilled = tree.used(6)  # one waits for 10 s / 4, as long as nothing is measured
    assert spilled == {"far": 4, "cloud": 2}
    near.pop().release()
    assert tree.next() == "near"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_tier_of_several_children_is_shared_by_the_policy(policy: str) -> None:
    tree = Tree(policy, "a", "b", "cloud", prefer=(("a", "b"),))
    assert set(tree.used(8)) == {"a", "b"}


def test_children_that_are_not_named_are_the_last_tier() -> None:
    tree = Tree("shortest_queue", "x", "cloud", "y", prefer=(("cloud",),))
    assert tree.used(4) == {"cloud": 4}
    assert tree.used(8) == {"x": 4, "y": 4}


def test_a_measured_pace_decides_when_it_spills() -> None:
    tree = Tree()
    for _ in range(400):  # 4 at a time, which take 0.1 s each
        leases = tree.lease(4)
        for lease in leases[:2]:
            lease.release()
        tree.tick(1.0)
        for lease in leases[2:]:
            lease.release()
    assert tree.dispatch.tiers is not None
    share = tree.registry.children["near"].shares[OPENAI]
    assert tree.dispatch.tiers.expected_wait_s(share) == 0
    assert tree.used(9)["near"] > 5


@pytest.mark.parametrize("state", ["down", "draining", "ejected", "silent", "gone"])
def test_without_a_usable_child_the_next_tier_is_used_at_once(state: str) -> None:
    tree = Tree()
    near = tree.registry.children["near"]
    if state == "down":
        tree.registry.mark_down(near, "it is off")
    elif state == "draining":
        tree.registry.set_drain("near", Drain(by="an operator"))
    elif state == "ejected":
        eject(tree.registry, near, 60.0, "it fails")
    elif state == "silent":
        tree.registry.suspect(near, "it is late")
    else:
        tree.registry.remove("near")
    assert tree.next() == "far"


def test_a_retry_stays_in_its_tier_if_it_can_and_leaves_it_otherwise() -> None:
    tree = Tree("shortest_queue", "a", "b", "cloud", prefer=(("a", "b"), ("cloud",)))
    assert tree.next("a") == "b"
    assert tree.next("a", "b") == "cloud"
    with pytest.raises(Unavailable):
        tree.next("a", "b", "cloud")


def test_a_model_that_has_to_be_loaded_first_is_a_long_wait() -> None:
    tree = Tree()
    tree.registry.report(tree.registry.children["near"], status_of(model(slots=4, load_s=30.0)))
    assert tree.next() == "far"


def test_all_instances_of_a_site_are_in_its_tier() -> None:
    tree = Tree("shortest_queue", "cloud", prefer=(("site-a",),))
    for number in (1, 2):
        message = site("site-a", model(slots=4), url=f"http://site-a-{number}:1", instance=f"i{number}", replica=True)
        tree.registry.register(registration(message))
    assert set(tree.used(4)) == {"site-a", "site-a~2"}


def test_what_is_far_is_used_when_it_is_nearer_than_a_queue() -> None:
    tree = Tree()
    tree.registry.children["far"].round_trip.note(0.5, 0.0)
    tree.lease(4)
    assert tree.next() == "cloud"  # 2.5 s against 0.5 s here: not enough


def test_pending_prompts_are_a_wait() -> None:
    tree = Tree("prefix")
    fingerprint = Hasher(b"key").take([b"document " * 9000], 81_000)
    first = tree.dispatch.lease(OPENAI, prefix=fingerprint)
    assert first.share.child.name == "near"
    assert tree.next() == "far"
    first.first_byte()
    assert tree.next() == "near"
    first.release()
    assert tree.dispatch.lease(OPENAI, prefix=fingerprint).matched > 80_000


def test_tiers_come_change_and_go() -> None:
    tree = Tree()
    assert tree.next() == "near"
    tree.dispatch.set_tiers((("cloud",),), SPILL_S)
    assert tree.next() == "cloud"
    tree.dispatch.set_tiers((), SPILL_S)
    assert set(tree.used(60)) == {"near", "far", "cloud"}
    tree.dispatch.set_tiers((("far",),), SPILL_S)
    assert tree.dispatch.tiers is not None
    tree.dispatch.set_policy("prefix")
    assert tree.dispatch.prefixes is not None
    assert tree.dispatch.prefixes.notes_all


def test_a_tier_of_thousands_is_not_looked_at_as_a_whole() -> None:
    names = [f"e{number}" for number in range(4 * MANY)]
    tree = Tree("shortest_queue", *names, "cloud", prefer=(tuple(names),))
    for name in names:
        child = tree.registry.children[name]
        for _ in range(4):
            child.lease(child.shares[OPENAI])
    assert tree.next() == "cloud"


def test_what_is_known_of_children_and_models_that_are_gone_is_forgotten() -> None:
    tree = Tree()
    tree.next()
    tiers = tree.dispatch.tiers
    assert tiers is not None
    tree.tick(2)
    tree.dispatch.forget_candidates()
    assert len(tiers._split) == 1
    tree.registry.remove("far")
    tree.registry.forget_candidates()
    tree.dispatch.forget_candidates()
    tree.tick(2)
    assert (len(tiers._split), len(tiers._residences)) == (0, 2)


def test_a_child_that_registers_later_is_in_the_tier_of_its_name() -> None:
    tree = Tree("shortest_queue", "cloud", prefer=(("site-a",), ("cloud",)))
    assert tree.next() == "cloud"
    tree.registry.register(registration(site("site-a", model(slots=4))))
    assert tree.next() == "site-a"


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 200_000)), min_size=1, max_size=6),
    st.floats(0, 30),
)
def test_what_is_looked_at_is_enough(children: list[tuple[int, int, int]], spill_after_s: float) -> None:
    """The choice is that of the waits at all tiers, though mostly only a part of the first one is looked at."""
    names = [f"e{number}" for number in range(len(children))]
    tree = Tree("lottery", *names)
    prefer = [[name for name, (tier, _, _) in zip(names, children, strict=True) if tier == at] for at in range(3)]
    tree.dispatch.set_tiers([tier for tier in prefer if tier], spill_after_s)
    tiers = tree.dispatch.tiers
    if tiers is None:
        return
    waits: dict[int, list[float]] = {}
    for name, (_, load, pending) in zip(names, children, strict=True):
        child = tree.registry.children[name]
        for _ in range(load):
            child.lease(child.shares[OPENAI])
        child.shares[OPENAI].pending = pending
        waits.setdefault(tiers.number(child), []).append(tiers.expected_wait_s(child.shares[OPENAI]))
    order = sorted(waits)
    expected = order[kept([min(waits[number]) for number in order], spill_after_s)]
    assert tiers.number(tree.registry.children[tree.next()]) == expected
