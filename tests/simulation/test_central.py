"""Routers to compare with."""

from __future__ import annotations

from random import Random

from hierarchy.simulation.central import CentralRouter
from hierarchy.simulation.engine import Engine, Rates
from hierarchy.simulation.events import Events
from hierarchy.simulation.prompt import Prompt
from hierarchy.simulation.queues import Queues
from hierarchy.simulation.request import Conversation, Request, Turn

RATES = Rates(4, 1000.0, 50.0, 10_000, 10, 512)


class Bench:
    def __init__(self, count: int, *, by_cache: bool) -> None:
        self.events = Events()
        queues = Queues(self.events)
        self.failed: list[Request] = []
        self.engines = [
            Engine(f"e{n}", n, ("m",), "openai", 1.0, RATES, self.events, queues, self._first, self._end)
            for n in range(count)
        ]
        self.router = CentralRouter(self.engines, self.events, Random(1), 0.001, self.failed.append, by_cache=by_cache)

    def _first(self, request: Request) -> None:
        self.router.first_byte(request)

    def _end(self, request: Request) -> None:
        self.router.ended(request)

    def send(self, seed: int, tokens: int = 1000) -> int:
        prompt = Prompt().then(seed, tokens)
        turn = Turn(0.0, prompt, 10, prompt)
        request = Request(Conversation(0.0, seed, iter([])), turn, ("m", "openai"), self.events.now, 3)
        self.router.enter(request)
        return request.engine


def test_the_shortest_queue_is_exact() -> None:
    bench = Bench(4, by_cache=False)
    assert sorted(bench.send(n) for n in range(8)) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_prompt_goes_where_it_is_cached() -> None:
    bench = Bench(4, by_cache=True)
    where = bench.send(1, 3000)
    bench.events.run()
    assert [bench.send(1, 3000) for _ in range(2)] == [where] * 2


def test_what_is_cached_is_left_when_too_much_waits_there() -> None:
    bench = Bench(4, by_cache=True)
    where = bench.send(1, 100)
    bench.events.run()
    bench.engines[where].cache.put(Prompt().then(7, 5000))
    bench.send(7, 5000)
    assert len({bench.send(1, 100) for _ in range(8)}) > 1


def test_a_lost_engine_gets_nothing_and_what_it_had_is_tried_elsewhere() -> None:
    bench = Bench(2, by_cache=True)
    bench.send(1)
    bench.engines[0].die()
    assert [bench.send(n) for n in range(2, 6)] == [1] * 4
    bench.engines[1].die()
    bench.send(9)
    assert len(bench.failed) == 1
