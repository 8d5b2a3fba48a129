"""An engine like vLLM or SGLang: requests wait for a slot, prompts are read one by one, and then each is answered.

Reading and writing share the machine. It works in steps: each writes one token of every response and reads a chunk of
the prompt that is read. A step takes as long as its reading, so responses are slow while a long prompt is read. The
memory is shared as well, see `cache`: a prompt is not read until there is room for it and its response.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, NamedTuple

from hierarchy.simulation.cache import PrefixCache, Room
from hierarchy.simulation.events import Events
from hierarchy.simulation.prompt import Prompt
from hierarchy.simulation.queues import Queues
from hierarchy.simulation.request import Request
from hierarchy.wire.status import Api, ModelStatus, NodeStatus

NEARLY: Final = 1e-6  # tokens: what is missing of a response because of rounded times


class Rates(NamedTuple):
    """What an engine can do."""

    slots: int  #: requests at once; more wait
    prefill_tokens_per_s: float  #: prompt tokens that are not cached, of all requests together
    decode_tokens_per_s: float  #: of each request, while no prompt is read
    cache_tokens: int  #: size of its KV memory, that of running requests included
    block_tokens: int  #: that are shared together
    chunk_tokens: int  #: of a prompt that are read between two tokens of the responses


class Work:
    """What an engine does for a request."""

    __slots__ = ("is_cancelled", "is_running", "request", "room")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.room: Room | None = None  # in the memory, from when its prompt is read
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
        self._needs_room = False  # the first one is not read yet: its prompt and its response do not fit
        self._writing: list[tuple[float, int, Work]] = []  # a heap: at which value of `_written` each one ends
        self._order = 0  # of those that end at the same time
        self._written = 0.0  # tokens that a response has which is written from the beginning
        self._written_at = 0.0  # when that was so
        self._rate = rates.decode_tokens_per_s  # tokens/s of each response now
        self._plan = 0  # the number of the event at which the next response ends
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

    # -- reading -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Begin with the first prompt that waits. What is cached counts now: the one before may have brought it."""
        while self._reading and self._reading[0].is_cancelled:
            self._reading.popleft()
        self._needs_room = False
        if not self._reading:
            self._write_at(self.rates.decode_tokens_per_s)
            return
        work = self._reading[0]
        request = work.request
        self._drop_cancelled()
        work.room = self.cache.open(request.prompt, request.turn.output_tokens, must=not self._writing)
        if work.room is None:
            self._needs_room = True
            self._write_at(self.rates.decode_tokens_per_s)
            return
        request.cached = min(work.room.cached, max(0, request.prompt.tokens - 1))
        tokens = request.prompt.tokens - request.cached
        seconds = tokens / self.rates.prefill_tokens_per_s
        self._write_at(min(self.rates.decode_tokens_per_s, math.ceil(tokens / self.rates.chunk_tokens) / seconds))
        self._events.after(seconds, self._has_read, work)

    def _has_read(self, work: Work) -> None:
        if self.dead:
            return
        self._reading.popleft()
        request, room = work.request, work.room
        if room is not None and not work.is_cancelled:
            self.cache.read(room)
            request.first_at = self._events.now
            self._on_first(request)
            self._progress()
            self._order += 1
            heappush(self._writing, (self._written + request.turn.output_tokens, self._order, work))
        self._read()

    # -- writing -----------------------------------------------------------------------------------------------------

    def _progress(self) -> None:
        now = self._events.now
        self._written += self._rate * (now - self._written_at)
        self._written_at = now

    def _write_at(self, rate: float) -> None:
        """All responses go on at this rate; plan when the next one ends."""
        self._progress()
        self._rate = rate
        self._drop_cancelled()
        self._plan += 1
        if self._writing:
            left = max(0.0, self._writing[0][0] - self._written)
            self._events.after(left / rate, self._end_due, self._plan)

    def _drop_cancelled(self) -> None:
        while self._writing and self._writing[0][2].is_cancelled:
            heappop(self._writing)

    def _end_due(self, plan: int) -> None:
        if plan != self._plan or self.dead:
            return  # it is planned anew
        self._progress()
        writing = self._writing
        while writing and (writing[0][2].is_cancelled or writing[0][0] <= self._written + NEARLY):
            self._end(heappop(writing)[2])
        if self._needs_room:
            self._read()
        if plan == self._plan:
            self._write_at(self._rate)

    def _end(self, work: Work) -> None:
        if work.is_cancelled:
            return
        request = work.request
        self._close(work, request.turn.continued)
        self.completed += 1
        self._on_end(request)
        self._leave(work)

    def _close(self, work: Work, continued: Prompt | None = None) -> None:
        """Its memory is free for others."""
        if work.room is not None:
            self.cache.close(work.room, continued)
            work.room = None

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
        self._close(work)
        if work.is_running:
            self._leave(work)
            if self._needs_room:
                self._read()
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
        self._writing.clear()
        self.running = 0

    def __repr__(self) -> str:
        return f"<Engine {self.name} {self.running}/{self.rates.slots} running, {len(self._waiting)} waiting>"
