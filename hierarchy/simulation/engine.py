"""An engine: requests wait for a slot, their prompts are read one after the other, and then each writes at its rate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from hierarchy.simulation.cache import PrefixCache
from hierarchy.simulation.events import Events
from hierarchy.simulation.queues import Queues
from hierarchy.simulation.request import Request
from hierarchy.wire.status import Api, ModelStatus, NodeStatus


class Rates(NamedTuple):
    """What an engine can do."""

    slots: int  #: requests at once; more wait
    prefill_tokens_per_s: float  #: prompt tokens that are not cached, of all requests together
    decode_tokens_per_s: float  #: of each request
    cache_tokens: int  #: size of its KV cache
    block_tokens: int  #: that are shared together


class Work:
    """What an engine does for a request."""

    __slots__ = ("is_cancelled", "is_running", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.is_running = False  # it has a slot
        self.is_cancelled = False


class Engine:
    """One engine.

    Args:
        number: among all engines, from 0.
        models: the names that it serves.
        speed: as it is declared.
        queues: counts who waits while a slot is free elsewhere.
        on_first: called when the first token leaves. on_end: called with the last.
    """

    def __init__(
        self,
        name: str,
        number: int,
        models: tuple[str, ...],
        api: Api,
        speed: float,
        rates: Rates,
        events: Events,
        queues: Queues,
        on_first: Callable[[Request], None],
        on_end: Callable[[Request], None],
    ) -> None:
        self.name = name
        self.number = number
        self.models = models
        self.api: Api = api
        self.speed = speed
        self.rates = rates
        self.cache = PrefixCache(rates.cache_tokens, rates.block_tokens)
        self.dead = False
        self.running = 0
        self.busy_s = 0.0  # slots in use, over time
        self.completed = 0
        self._waiting: deque[Work] = deque()  # for a slot
        self._reading: deque[Work] = deque()  # the first one's prompt is read; the others have a slot and wait
        self._by_model = dict.fromkeys(models, 0)
        self._events = events
        self._queues = queues
        self._on_first = on_first
        self._on_end = on_end
        self._counted_at = 0.0  # when `busy_s` was brought up to date
        queues.add(models, rates.slots)

    @property
    def load(self) -> int:
        """Requests running or waiting."""
        return self.running + len(self._waiting)

    def status(self) -> NodeStatus:
        """What a probe reads."""
        slots, speed = self.rates.slots, self.speed
        models = tuple([ModelStatus(name, self.api, speed, self._by_model[name], slots) for name in self.models])
        return NodeStatus(models, speed, self.load)

    def receive(self, request: Request) -> None:
        """A request arrives."""
        request.engine = self.number
        request.queued_at = self._events.now
        work = request.work = Work(request)
        self._by_model[request.key[0]] += 1
        if self.running < self.rates.slots:
            self._admit(work)
        else:
            self._waiting.append(work)
            self._queues.wait(request.key[0], 1)

    def _admit(self, work: Work) -> None:
        self._count()
        self.running += 1
        work.is_running = True
        self._queues.run(self.models, 1)
        work.request.waited_s = self._events.now - work.request.queued_at
        self._reading.append(work)
        if len(self._reading) == 1:
            self._read()

    def _read(self) -> None:
        """Begin with the first prompt that waits. What is cached counts now: the one before may have brought it."""
        work = self._reading[0]
        prompt = work.request.prompt
        work.request.cached = min(self.cache.match(prompt), max(0, prompt.tokens - 1))
        tokens = 0 if work.is_cancelled else prompt.tokens - work.request.cached
        self._events.after(tokens / self.rates.prefill_tokens_per_s, self._has_read, work)

    def _has_read(self, work: Work) -> None:
        if self.dead:
            return
        self._reading.popleft()
        request = work.request
        if not work.is_cancelled:
            self.cache.put(request.prompt)
            request.first_at = self._events.now
            self._on_first(request)
            self._events.after(request.turn.output_tokens / self.rates.decode_tokens_per_s, self._end, work)
        if self._reading:
            self._read()

    def _end(self, work: Work) -> None:
        if self.dead or work.is_cancelled:
            return
        request = work.request
        if request.turn.continued is not request.prompt:
            self.cache.put(request.turn.continued)
        self.completed += 1
        self._on_end(request)
        self._leave(work)

    def _leave(self, work: Work) -> None:
        """Its slot is free for the next."""
        self._count()
        self.running -= 1
        self._queues.run(self.models, -1)
        self._by_model[work.request.key[0]] -= 1
        if self._waiting:
            first = self._waiting.popleft()
            self._queues.wait(first.request.key[0], -1)
            self._admit(first)

    def cancel(self, request: Request) -> None:
        """The connection on which a request came is gone."""
        work = request.work
        if self.dead or not isinstance(work, Work) or work.is_cancelled:
            return
        work.is_cancelled = True
        if work.is_running:
            self._leave(work)
        else:
            self._waiting.remove(work)
            self._queues.wait(request.key[0], -1)
            self._by_model[request.key[0]] -= 1

    def _count(self) -> None:
        now = self._events.now
        self.busy_s += self.running * (now - self._counted_at)
        self._counted_at = now

    def busy(self) -> float:
        """Slots in use over time so far, in seconds."""
        self._count()
        return self.busy_s

    def die(self) -> None:
        """It ends, with all that it has; whoever sent that finds out."""
        self._count()
        self.dead = True
        for work in self._waiting:
            self._queues.wait(work.request.key[0], -1)
        self._queues.run(self.models, -self.running)
        self._queues.add(self.models, -self.rates.slots)
        self._waiting.clear()
        self._reading.clear()
        self.running = 0

    def __repr__(self) -> str:
        return f"<Engine {self.name} {self.running}/{self.rates.slots} running, {len(self._waiting)} waiting>"
