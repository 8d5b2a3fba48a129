"""A simulated engine: slots, rates, and what it has cached."""

from __future__ import annotations

import pytest

from hierarchy.simulation.engine import Engine, Rates
from hierarchy.simulation.events import Events
from hierarchy.simulation.prompt import Prompt
from hierarchy.simulation.queues import Queues
from hierarchy.simulation.request import Conversation, Request, Turn

RATES = Rates(
    slots=2, prefill_tokens_per_s=100.0, decode_tokens_per_s=10.0, cache_tokens=1000, block_tokens=10, chunk_tokens=5
)


class Bench:
    """An engine, and when its requests had their first and their last token."""

    def __init__(self, rates: Rates = RATES) -> None:
        self.events = Events()
        self.queues = Queues(self.events)
        self.first: list[tuple[float, Request]] = []
        self.ended: list[tuple[float, Request]] = []
        self.engine = Engine(
            "e",
            0,
            ("m",),
            "openai",
            1.0,
            rates,
            self.events,
            self.queues,
            lambda request: self.first.append((self.events.now, request)),
            lambda request: self.ended.append((self.events.now, request)),
        )

    def send(self, seed: int, tokens: int, output: int) -> Request:
        prompt = Prompt().then(seed, tokens)
        turn = Turn(0.0, prompt, output, prompt.then(seed + 1000, output))
        request = Request(Conversation(0.0, 1, iter([])), turn, ("m", "openai"), self.events.now, 3)
        self.engine.receive(request)
        return request


def test_a_request_is_read_and_then_written() -> None:
    bench = Bench()
    request = bench.send(1, 50, 20)
    bench.events.run()
    assert bench.first == [(0.5, request)]
    assert bench.ended == [(2.5, request)]
    assert bench.engine.busy() == pytest.approx(2.5)


def test_prompts_are_read_one_after_the_other() -> None:
    bench = Bench()
    bench.send(1, 50, 20)
    bench.send(2, 50, 20)
    bench.events.run()
    assert [at for at, _ in bench.first] == [0.5, 1.0]
    assert [at for at, _ in bench.ended] == [2.5, 3.0]


def test_responses_are_slow_while_a_prompt_is_read_in_large_chunks() -> None:
    bench = Bench(RATES._replace(chunk_tokens=25))
    one = bench.send(1, 50, 20)
    bench.events.run(until=1.0)  # it has 5 tokens of its response
    other = bench.send(2, 50, 20)  # is read in 0.5 s, in two steps
    bench.events.run()
    assert [request for _, request in bench.ended] == [one, other]
    assert [at for at, _ in bench.ended] == pytest.approx([1.5 + 1.3, 1.5 + 2.0])


def test_few_tokens_are_read_beside_the_responses_and_cost_them_nothing() -> None:
    bench = Bench(RATES._replace(chunk_tokens=25))
    one = bench.send(1, 50, 20)
    bench.events.run(until=1.0)
    bench.send(2, 5, 20)  # takes 0.05 s, half of a step
    bench.events.run()
    assert bench.ended[0][0] == pytest.approx(2.5)
    assert bench.ended[0][1] is one


def test_a_prompt_waits_until_it_and_its_response_have_room() -> None:
    bench = Bench(RATES._replace(cache_tokens=150))
    ones = [bench.send(seed, 50, 20) for seed in (1, 2)]  # 140 tokens
    bench.events.run(until=1.0)
    assert bench.engine.cache.in_use == 140
    bench = Bench(RATES._replace(cache_tokens=130))
    ones = [bench.send(seed, 50, 20) for seed in (1, 2)]
    bench.events.run()
    assert [request for _, request in bench.ended] == ones
    assert [at for at, _ in bench.ended] == pytest.approx([2.5, 5.0])
    assert bench.engine.cache.in_use == 0


def test_a_prompt_larger_than_the_memory_is_read_when_nothing_else_runs() -> None:
    bench = Bench(RATES._replace(cache_tokens=60))
    requests = [bench.send(seed, 50, 20) for seed in (1, 2)]
    bench.events.run()
    assert [request for _, request in bench.ended] == requests
    assert bench.engine.cache.tokens <= 60


def test_a_request_that_waits_for_room_may_be_cancelled() -> None:
    bench = Bench(RATES._replace(cache_tokens=130))
    requests = [bench.send(seed, 50, 20) for seed in (1, 2, 3)]
    bench.events.run(until=1.0)
    bench.engine.cancel(requests[1])
    bench.events.run()
    assert [request for _, request in bench.ended] == [requests[0], requests[2]]
    assert bench.engine.cache.in_use == 0


def test_a_third_request_waits_for_a_slot() -> None:
    bench = Bench()
    requests = [bench.send(seed, 50, 20) for seed in (1, 2, 3)]
    assert bench.engine.load == 3
    assert bench.engine.status().models[0].queue_length == 3
    assert bench.engine.status().models[0].slots == 2
    bench.events.run()
    assert requests[2].waited_s == pytest.approx(2.5)
    assert bench.first[2][0] == pytest.approx(3.0)
    assert bench.engine.load == 0


def test_a_prompt_that_is_read_at_the_same_time_counts_as_cached() -> None:
    bench = Bench()
    first, second = bench.send(1, 50, 20), bench.send(1, 50, 20)
    bench.events.run()
    assert (first.cached, second.cached) == (0, 49)  # at least one token is always read
    assert bench.first[1][0] == pytest.approx(0.51)


def test_a_response_is_cached_with_its_prompt() -> None:
    bench = Bench()
    first = bench.send(1, 50, 20)
    bench.events.run()
    assert bench.engine.cache.match(first.turn.continued) == 70


def test_an_engine_that_dies_ends_nothing_any_more() -> None:
    bench = Bench()
    for seed in (1, 2, 3):
        bench.send(seed, 50, 20)
    bench.events.run(until=0.7)
    bench.engine.die()
    bench.events.run()
    assert (len(bench.first), bench.ended, bench.engine.load) == (1, [], 0)
    bench.queues.count()
    assert bench.queues.idle_s == 0.0


@pytest.mark.parametrize("number", [0, 1, 2], ids=["being read", "before it is read", "without a slot"])
def test_a_request_that_is_cancelled_leaves_its_place_to_the_next(number: int) -> None:
    bench = Bench()
    requests = [bench.send(seed, 50, 20) for seed in (1, 2, 3)]
    bench.events.run(until=0.2)
    bench.engine.cancel(requests[number])
    bench.engine.cancel(requests[number])  # again does nothing
    bench.events.run()
    assert {request for _, request in bench.ended} == set(requests) - {requests[number]}
    assert (bench.engine.load, bench.engine.status().models[0].queue_length) == (0, 0)


def test_a_request_that_is_cancelled_while_it_writes_ends_at_once() -> None:
    bench = Bench()
    requests = [bench.send(seed, 50, 20) for seed in (1, 2, 3)]
    bench.events.run(until=1.5)
    bench.engine.cancel(requests[0])
    assert requests[2].waited_s == pytest.approx(1.5)
    bench.events.run()
    assert [request for _, request in bench.ended] == requests[1:]


def test_slots_that_are_idle_while_others_wait_are_counted() -> None:
    bench = Bench()
    idle = Engine("f", 1, ("m",), "openai", 1.0, RATES, bench.events, bench.queues, lambda _: None, lambda _: None)
    for seed in (1, 2, 3):
        bench.send(seed, 50, 20)
    bench.events.run(until=2.5)
    bench.queues.count()
    assert bench.queues.idle_s == pytest.approx(2.5)  # one waits, and the other engine has two free slots
    assert bench.queues.slots_s == pytest.approx(10.0)
    assert idle.load == 0
