"""Routers to compare a tree with: one that sees every engine as it is at each moment. They exist in simulations only.

`central` weighs what is cached against what waits, by the rule that the tree has for its own children, but with exact
knowledge of every cache. `central_queue` takes the engine with the shortest queue for its speed.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hierarchy.prefix.cost import common, cost, enough_for_common, slot_score, weight
from hierarchy.simulation.cache import PrefixCache
from hierarchy.simulation.engine import Engine
from hierarchy.simulation.events import Events
from hierarchy.simulation.prompt import BYTES_PER_TOKEN
from hierarchy.simulation.request import Request
from hierarchy.wire.status import ModelKey


class CentralRouter:
    """All engines, and what is under way to each.

    by_cache: weigh what is cached. delay_s: of a message to an engine.
    """

    def __init__(
        self,
        engines: list[Engine],
        events: Events,
        rng: Random,
        delay_s: float,
        on_failed: Callable[[Request], None],
        *,
        by_cache: bool,
    ) -> None:
        self._events = events
        self._rng = rng
        self._delay_s = delay_s
        self._on_failed = on_failed
        self._by_cache = by_cache
        self._of: dict[ModelKey, list[_Known]] = {}
        self._by_number: dict[int, _Known] = {}
        self._holders: dict[int, set[PrefixCache]] = {}
        self._by_holder: dict[PrefixCache, _Known] = {}
        for engine in engines:
            known = self._by_number[engine.number] = _Known(engine)
            engine.cache.holders = self._holders
            self._by_holder[engine.cache] = known
            for model in engine.models:
                self._of.setdefault((model, engine.api), []).append(known)

    def enter(self, request: Request) -> None:
        """A client sends a request."""
        candidates = [known for known in self._of.get(request.key, []) if not known.engine.dead]
        if not candidates:
            self._on_failed(request)
            return
        chosen, match = self._cheapest(request, candidates) if self._by_cache else (self._shortest(candidates), 0)
        request.delay_s = self._delay_s
        chosen.add(request, (request.prompt.tokens - match) * BYTES_PER_TOKEN)
        request.engine = chosen.engine.number
        self._events.after(self._delay_s, self._deliver, request, chosen)

    def _deliver(self, request: Request, chosen: _Known) -> None:
        if chosen.engine.dead:
            self.lost(request)
        else:
            chosen.engine.receive(request)

    def lost(self, request: Request) -> None:
        """Its engine is gone: try another one."""
        request.left -= 1
        self.ended(request)
        if request.left > 0:
            self.enter(request)
        else:
            self._on_failed(request)

    def first_byte(self, request: Request) -> None:
        """A prompt has been read."""
        self._by_number[request.engine].read(request)

    def ended(self, request: Request) -> None:
        """A request is over."""
        known = self._by_number[request.engine]
        known.open -= 1
        known.read(request)

    def _shortest(self, candidates: list[_Known]) -> _Known:
        least = min(known.score for known in candidates)
        return self._rng.choice([known for known in candidates if known.score == least])

    def _cheapest(self, request: Request, candidates: list[_Known]) -> tuple[_Known, int]:
        """The least cost of all, and how many tokens are cached there."""
        match_weight = weight(min([known.wait for known in candidates]))
        costs = [known.cost for known in candidates]
        least = min(costs)
        best = [candidates[n] for n, one in enumerate(costs) if one == least]
        chosen = self._rng.choice(best)
        matches = self._matches(request, len(candidates))
        shared = common([tokens * BYTES_PER_TOKEN for tokens in matches.values()], len(candidates))
        for known, tokens in matches.items():
            size = max(0, tokens * BYTES_PER_TOKEN - shared)
            one = cost(known.wait, size, known.score, match_weight)
            if one < least:
                chosen, least = known, one
        return chosen, matches.get(chosen, 0)

    def _matches(self, request: Request, children: int) -> dict[_Known, int]:
        """Tokens of a prompt that are cached, at each engine where more are than what is common.

        Whoever holds a part holds all before it. So those with the longest matches are found first.
        """
        matches: dict[_Known, int] = {}
        enough = enough_for_common(children)
        for part in reversed(request.prompt.ids):
            for cache in self._holders.get(part, ()):
                known = self._by_holder[cache]
                if known in matches or known.engine.dead or request.key[0] not in known.engine.models:
                    continue
                tokens = cache.match(request.prompt)
                if tokens:
                    matches[known] = tokens
            if len(matches) >= enough:
                break
        return matches


class _Known:
    """One engine, and what was sent there."""

    __slots__ = ("_bytes", "cost", "engine", "open", "pending", "score", "speed", "wait")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.speed = engine.speed
        self.open = 0
        self.pending: dict[Request, int] = {}  # bytes to read before its first token
        self.wait = self.score = self.cost = 0.0
        self._bytes = 0  # the sum of `pending`

    def add(self, request: Request, size: int) -> None:
        """A request is sent there, of which so many bytes must be read."""
        self.open += 1
        self.pending[request] = size
        self._bytes += size
        self._rescore()

    def read(self, request: Request) -> None:
        """Its prompt has been read, or never will be."""
        self._bytes -= self.pending.pop(request, 0)
        self._rescore()

    def _rescore(self) -> None:
        self.wait = self._bytes / self.speed
        self.score = slot_score(self.open, self.engine.rates.slots, self.speed)
        self.cost = cost(self.wait, 0, self.score, 0.0)
