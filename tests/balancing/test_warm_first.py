"""Which children are compared where some of them would have to load the model first."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.balancing.expected_wait import expected_wait_s
from hierarchy.balancing.policy import POLICIES
from hierarchy.errors import Unavailable
from hierarchy.prefix.fingerprint import Hasher
from hierarchy.registry import Registry
from hierarchy.registry.child import Child, Lease
from hierarchy.wire.messages import Identity
from hierarchy.wire.status import ModelKey, NodeStatus
from tests.builders import OPENAI, model, registration, site, status_of
from tests.clocks import Clock

HASHER = Hasher(b"key")
OTHER: ModelKey = ("n", "openai")


class Engines:
    """Engines that serve `m` and `n`, and what they have loaded."""

    def __init__(self, count: int = 3, policy: str = "shortest_queue", slots: int = 4, room: int = 1) -> None:
        self.clock = Clock()
        self.registry = Registry(Identity("root", "http://root:21001", "root-1"), self.clock)
        self.dispatch = Dispatch(self.registry, policy, Random(7))
        self.children = [self.registry.declare(f"e{n}", f"http://e{n}:1", "ollama") for n in range(count)]
        self.loaded: dict[Child, list[str]] = {child: [] for child in self.children}
        self.slots, self.room = slots, room
        self.loads = 0
        for child in self.children:
            self.probe(child)

    def probe(self, child: Child) -> None:
        rows = [
            model(name, slots=self.slots, load_s=0.0 if name in self.loaded[child] else 10.0) for name in ("m", "n")
        ]
        self.registry.report(child, status_of(*rows))

    def load(self, child: Child, name: str = "m") -> None:
        """As an engine does that puts the model away which was used least recently."""
        if name in self.loaded[child]:
            self.loaded[child].remove(name)
        else:
            self.loads += 1
        self.loaded[child] = [*self.loaded[child], name][-self.room :]
        self.clock.tick(3)
        self.probe(child)

    def send(self, key: ModelKey = OPENAI, data: bytes = b"") -> Lease:
        prefix = HASHER.take([data], len(data)) if data else None
        return self.dispatch.lease(key, prefix=prefix)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_hundred_requests_at_once_load_a_model_at_one_engine(policy: str) -> None:
    engines = Engines(5, policy)
    leases = [engines.send(data=b"question %d " % number * 100) for number in range(100)]
    assert len({lease.share.child for lease in leases}) == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_an_engine_that_has_the_model_loaded_comes_first(policy: str) -> None:
    engines = Engines(5, policy)
    engines.load(engines.children[3])
    leases = [engines.send(data=b"question %d " % number * 100) for number in range(4)]
    assert {lease.share.child.name for lease in leases} == {"e3"}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_second_engine_loads_the_model_when_the_first_is_not_enough(policy: str) -> None:
    engines = Engines(3, policy)
    engines.load(engines.children[0])
    names = Counter(engines.send(data=b"question %d " % number * 100).share.child.name for number in range(60))
    assert names["e0"] >= 8  # four run, and those that wait for one of ten seconds wait no longer than for a load
    assert sum(count > 0 for count in names.values()) == 2
    assert len(names) == 2


@pytest.mark.parametrize("policy", POLICIES)
def test_two_models_settle_on_two_engines_with_room_for_one_each(policy: str) -> None:
    engines = Engines(2, policy)
    for turn in range(20):
        for key in (OPENAI, OTHER):
            lease = engines.send(key, b"question %d " % turn * 100)
            engines.load(lease.share.child, key[0])
            lease.release()
    assert engines.loads == 2


def test_all_warm_candidates_are_what_they_were() -> None:
    engines = Engines(2, room=2)
    for child in engines.children:
        engines.load(child)
    candidates = engines.registry.available(OPENAI)
    engines.dispatch.lease(OPENAI)
    assert not engines.dispatch._candidates[OPENAI].has_cold
    assert engines.dispatch._candidates[OPENAI].shares is candidates


def test_a_model_is_loaded_where_least_is_loaded_and_to_do() -> None:
    engines = Engines(3, room=2)
    engines.load(engines.children[0], "n")
    engines.children[1].lease(engines.children[1].shares[OTHER])  # it is loading that
    assert engines.send().share.child is engines.children[2]


def test_a_cold_child_that_was_tried_is_not_waited_for() -> None:
    engines = Engines(2)
    first = engines.send()
    again = engines.dispatch.lease(OPENAI, [first.share.child])
    assert again.share.child is not first.share.child


def test_by_prefix_the_cache_of_a_model_that_was_put_away_counts_for_nothing() -> None:
    engines = Engines(2, "prefix")
    data = b"a long conversation " * 200
    first = engines.send(data=data)
    child = first.share.child
    engines.load(child)
    first.release()
    second = engines.send(data=data)
    assert second.matched > 0
    second.release()
    engines.load(child, "n")
    lease = engines.send(data=data)
    assert lease.matched == 0
    assert lease.share.child is not child  # that has `n` loaded


def test_sites_are_compared_by_what_is_loaded_below_them() -> None:
    clock = Clock()
    registry = Registry(Identity("root", "http://root:21001", "root-1"), clock)
    dispatch = Dispatch(registry, "shortest_queue", Random(7))
    registry.register(registration(site("a", model(load_s=12.5))))
    registry.register(registration(site("b", model())))
    assert {dispatch.choose(OPENAI).child.name for _ in range(8)} == {"b"}
    assert [row.load_s for row in registry.status().models] == [0.0]


@pytest.mark.parametrize(
    ("load", "slots", "speed", "pending", "wait_s"),
    [
        (0, 4, 1, 0, 0),
        (3, 4, 1, 0, 0),
        (7, 4, 1, 0, 10),
        (11, 4, 1, 0, 20),
        (19, 0, 1, 0, 0),
        (59, 0, 2, 0, 0),
        (59, 0, 1, 0, 10),
        (0, 4, 2, 64_000, 1),
    ],
)
def test_expected_waits(load: float, slots: int, speed: float, pending: int, wait_s: float) -> None:
    assert expected_wait_s(load, slots, speed, pending) == pytest.approx(wait_s)


def test_the_address_of_an_engine_that_sleeps_is_given_to_nobody() -> None:
    engines = Engines(1)
    row = model(load_s=10.0)
    engines.registry.report(engines.children[0], NodeStatus((row,), 1.0, asleep=True, wakes=True))
    assert engines.dispatch.choose(OPENAI).child is engines.children[0]
    with pytest.raises(Unavailable, match="a request to this node would load it"):
        engines.dispatch.hand_out("m")
