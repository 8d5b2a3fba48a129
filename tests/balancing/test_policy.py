"""Each policy against its formula, with a seeded generator."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.balancing.candidates import Candidates
from hierarchy.balancing.policy import MAX_TURNS, POLICIES, RoundRobin, lottery, p2c, shortest_queue
from hierarchy.registry.child import Child, Share
from tests.builders import model, status_of

DRAWS = 20_000


def candidates(*speeds_and_queues: tuple[float, int], name: str = "m") -> Candidates:
    shares = []
    for number, (speed, queue_length) in enumerate(speeds_and_queues):
        child = Child(f"c{number}", f"http://c{number}", "vllm")
        child.report(status_of(model(name, speed, queue_length)), 0.0)
        shares.append(child.shares[name, "openai"])
    return Candidates(shares)


def with_slots(*speeds_loads_slots: tuple[float, int, int]) -> Candidates:
    shares = []
    for number, (speed, queue_length, slots) in enumerate(speeds_loads_slots):
        child = Child(f"c{number}", f"http://c{number}", "vllm")
        child.report(status_of(model("m", speed, queue_length, slots=slots)), 0.0)
        shares.append(child.shares["m", "openai"])
    return Candidates(shares)


def chosen(policy: str, among: Candidates, draws: int = DRAWS) -> list[int]:
    """How often each candidate was taken."""
    call, rng = POLICIES[policy](), Random(7)
    counts = Counter(id(call(among, rng)) for _ in range(draws))
    return [counts[id(share)] for share in among.shares]


def assert_in_proportion(counts: list[int], weights: list[float]) -> None:
    """Within four standard deviations of the expected counts."""
    draws = sum(counts)
    for count, weight in zip(counts, weights, strict=True):
        part = weight / sum(weights)
        assert abs(count - draws * part) <= 4 * math.sqrt(draws * part * (1 - part)), (counts, weights)


class Fixed(Random):
    """A generator that always returns the same number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize("speeds", [[1, 1], [1, 2, 5], [0.001, 1000, 500], [3]])
def test_lottery_is_in_proportion_to_speed_whatever_the_load(speeds: list[float]) -> None:
    among = candidates(*((speed, 100 * number) for number, speed in enumerate(speeds)))
    assert_in_proportion(chosen("lottery", among), speeds)


@pytest.mark.parametrize(
    ("speeds_and_queues", "winner"),
    [
        ([(1, 1), (1, 0)], 1),
        ([(1, 1), (4, 3)], 1),  # 1 against 0.75
        ([(1, 1), (4, 5)], 0),
        ([(1, 2), (1, 1), (10, 11)], 1),
        ([(0.5, 1), (1, 1)], 1),
        ([(2, 9)], 0),
    ],
)
def test_shortest_queue_takes_the_least_load_for_its_speed(
    speeds_and_queues: list[tuple[float, int]], winner: int
) -> None:
    counts = chosen("shortest_queue", candidates(*speeds_and_queues), 50)
    assert counts[winner] == 50


@pytest.mark.parametrize("policy", ["shortest_queue", "p2c", "prefix"])
@pytest.mark.parametrize(
    ("speeds_loads_slots", "winner"),
    [
        ([(4, 8, 8), (1, 7, 8)], 1),  # the fast one is full: 2 against 7 by load / speed
        ([(1, 4, 8), (1, 5, 16)], 1),  # half of the slots against a third
        ([(1, 9, 8), (4, 11, 8)], 1),  # both are full: two wait for a slow one, four for one that is four times as fast
        ([(4, 8, 8), (1, 7, 0)], 0),  # slots of one are not known: by load / speed
    ],
)
def test_a_free_slot_comes_first_where_all_slots_are_known(
    policy: str, speeds_loads_slots: list[tuple[float, int, int]], winner: int
) -> None:
    taken = chosen(policy, with_slots(*speeds_loads_slots), 50)[winner]
    assert taken >= (40 if policy == "p2c" else 50)  # it may draw the faster one eight times


def test_shortest_queue_breaks_ties_at_random_by_speed() -> None:
    among = candidates((1, 0), (3, 0), (100, 1), (1, 0))
    assert_in_proportion(chosen("shortest_queue", among), [1, 3, 0, 1])


@pytest.mark.parametrize("idle", [1, 5, 30])
def test_shortest_queue_among_many_takes_idle_ones_by_speed(idle: int) -> None:
    """Few draws find an idle one of many; the choice is the same as if all were compared."""
    speeds = [1.0 + number % 4 for number in range(idle)]
    among = candidates(*((speed, 0) for speed in speeds), *((8.0, 1) for _ in range(40 - idle)))
    counts = chosen("shortest_queue", among)
    assert_in_proportion(counts[:idle], speeds)
    assert not any(counts[idle:])


def test_shortest_queue_among_many_of_which_none_is_idle() -> None:
    among = candidates(*((1.0, 2) for _ in range(30)), (1.0, 1), (3.0, 3))
    assert_in_proportion(chosen("shortest_queue", among), [0.0] * 30 + [1.0, 3.0])


def test_shortest_queue_looks_at_few_of_thousands() -> None:
    among = candidates(*((1.0, 0) for _ in range(100)))
    looks = 0

    class Counting(Random):
        def random(self) -> float:
            nonlocal looks
            looks += 1
            return super().random()

    shortest_queue(among, Counting(7))
    assert looks == 1


def test_shortest_queue_fills_by_speed() -> None:
    """Each request claims its child: a child four times as fast ends up with four times the requests."""
    among, rng = candidates((1, 0), (4, 0)), Random(7)
    for _ in range(500):
        share = shortest_queue(among, rng)
        share.child.lease(share)
    assert [share.open for share in among.shares] == [100, 400]


def test_p2c_takes_the_better_of_two() -> None:
    once_in = 2**9  # the worse one is taken only if all draws hit it
    assert_in_proportion(chosen("p2c", candidates((1, 5), (1, 0))), [1, once_in - 1])
    worst, *others = chosen("p2c", candidates((1, 9), (1, 1), (1, 0)))
    assert worst < 10
    assert_in_proportion(others, [1, 2])  # the middle one wins one pair of three


def test_p2c_draws_by_speed() -> None:
    """With equal loads the first of the pair is taken, so the choice is as in `lottery`."""
    assert_in_proportion(chosen("p2c", candidates((1, 0), (3, 0))), [1, 3])


def test_p2c_ends_even_if_one_share_has_nearly_all_the_speed() -> None:
    assert chosen("p2c", candidates((1e-9, 0), (1e6, 10**6)), 1000) == [0, 1000]


def test_round_robin_gives_each_its_turn_whatever_speed_and_load() -> None:
    assert chosen("round_robin", candidates((1, 0), (100, 0), (1, 10**6)), 30) == [10, 10, 10]
    policy, among = RoundRobin(), candidates((1, 0), (1, 0), (1, 0))
    order = [among.shares.index(policy(among, Random(7))) for _ in range(6)]
    assert order[:3] == order[3:]
    assert sorted(order[:3]) == [0, 1, 2]


def test_round_robin_keeps_turns_per_model() -> None:
    policy, rng = RoundRobin(), Random(7)
    a, b = candidates((1, 0), (1, 0), name="a"), candidates((1, 0), (1, 0), name="b")
    counts = Counter(id(policy(among, rng)) for _ in range(20) for among in (a, b))
    assert [counts[id(share)] for share in (*a.shares, *b.shares)] == [10] * 4


def test_round_robin_does_not_start_all_nodes_at_the_same_child() -> None:
    among = candidates((1, 0), (1, 0), (1, 0))
    assert len({id(RoundRobin()(among, Random(seed))) for seed in range(20)}) == 3


def test_round_robin_continues_when_children_come_and_go() -> None:
    policy, rng, among = RoundRobin(), Random(7), candidates(*[(1.0, 0)] * 5)
    for count in (5, 2, 1, 3, 5):
        some = Candidates(among.shares[:count])
        taken = {id(policy(some, rng)) for _ in range(count)}
        assert taken == {id(share) for share in some.shares}


loads = st.lists(st.tuples(st.floats(1e-6, 1e6), st.integers(0, 10**9)), min_size=1, max_size=8)
chances = st.floats(0, 1, exclude_max=True)


@given(loads, chances, st.sampled_from(sorted(POLICIES)))
def test_no_policy_takes_a_share_that_is_not_a_candidate(
    speeds_and_queues: list[tuple[float, int]], chance: float, policy: str
) -> None:
    among = candidates(*speeds_and_queues)
    before = list(among.shares)
    call = POLICIES[policy]()
    taken = [call(among, rng) for rng in (Fixed(chance), Fixed(0.0), Fixed(math.nextafter(1, 0)), Random(7))]
    assert all(any(share is one for one in before) for share in taken)
    assert among.shares == before


@given(loads)
def test_shortest_queue_takes_the_lowest_score(speeds_and_queues: list[tuple[float, int]]) -> None:
    among = candidates(*speeds_and_queues)
    assert shortest_queue(among, Random(7)).score == min(share.value / share.speed for share in among.shares)


@pytest.mark.parametrize(("chance", "winner"), [(0.0, 0), (0.2499, 0), (0.25, 1), (0.9999999999999999, 1)])
def test_a_draw_is_a_point_on_the_line_of_speeds(chance: float, winner: int) -> None:
    among = candidates((1, 0), (3, 0))
    assert lottery(among, Fixed(chance)) is among.shares[winner]
    assert among.cumulative_speed == [1.0, 4.0]


def test_a_draw_at_the_very_end_of_the_line_is_the_last_one() -> None:
    tiny = 5e-324  # so small that every part of it is rounded up to the whole
    among = candidates((tiny, 0), (tiny, 0))
    assert lottery(among, Fixed(math.nextafter(1, 0))) is among.shares[1]


def test_each_policy_has_its_own_state() -> None:
    assert set(POLICIES) == {"shortest_queue", "p2c", "lottery", "round_robin", "prefix"}
    assert POLICIES["round_robin"]() is not POLICIES["round_robin"]()
    one: list[Share] = candidates((1, 0)).shares
    assert p2c(Candidates(one), Random(7)) is one[0]


def test_turns_of_models_that_are_gone_do_not_pile_up() -> None:
    policy = RoundRobin()
    for number in range(3 * MAX_TURNS):
        share = Share(Child("c", "http://c:1", "vllm"), (f"m{number}", "openai"))
        assert policy(Candidates([share]), Random(1)) is share
    assert len(policy._turns) <= MAX_TURNS
