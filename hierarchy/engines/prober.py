"""Probing engines, which do not report by themselves.

A `Prober` reads one engine again and again. A probe that is late is not thrown away, since its answer is the best sign
of life: the prober waits for it, tries another connection now and then, and meanwhile judges by what else it sees.

    probe ──answer──▶ report
      │ late, and no byte from the engine ──▶ suspect ──answer or byte──▶ trusted
      │                                          └── nothing, for long ──▶ down
      └─refused, or the kernel gets no answer ──▶ down       two bad answers ──▶ down
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from hierarchy.config.models import EngineConfig
from hierarchy.engines.adapters.reading import Adapter, select_models
from hierarchy.engines.pacer import Pacer, Turn, next_beat
from hierarchy.engines.probe_client import ProbeClient, Proof, proof_of, reason_of
from hierarchy.engines.vitals import LATE_S, Vitals
from hierarchy.errors import HierarchyError
from hierarchy.runtime.metered import Metered
from hierarchy.runtime.tcp_keepalive import UNREACHABLE_S
from hierarchy.wire.status import NodeStatus

LOOK_S = 0.25  # between two looks at a probe that has no answer yet
RETRY_S = 0.5  # wait after the first failure; doubled after each further one
MAX_RETRY_S = 5.0  # even if the interval is longer: an operator who starts an engine waits for it to be found
STARTING_S = 10.0  # in which an engine that does not run yet is no reason for a warning
JITTER = 0.2  # part of the wait that is random, so that the probes of a site's engines spread out
FRESH_S: Final = 5.0  # how long a second connection is tried; doubled for each further one
LONGEST_S: Final = 90.0  # of one probe: by then the engine is dead, or a new probe is as good

log = logging.getLogger("hierarchy.health")


class Owner(Protocol):
    """Has the engine, and hears what becomes of it."""

    def report(self, status: NodeStatus, ended: int) -> None:
        """A probe has its answer. Raises a HierarchyError if the status is refused; the answer is a bad one then.

        ended: requests of this node that have ended while the probe waited. The answer may count them still.
        """

    def rests(self, reason: str) -> bool:
        """Nothing listens at its URL. Returns whether that is as it should be, until a request needs it."""

    def suspect(self, reason: str) -> None:
        """A probe is late, and there is no other sign of life."""

    def trust(self) -> None:
        """There is a sign of life."""

    def mark_down(self, reason: str) -> None:
        """It cannot be used; called again for each further failure. reason: one line."""

    @property
    def signs(self) -> int:
        """A count that grows whenever bytes arrive from the engine."""

    @property
    def requests(self) -> int:
        """Requests that the engine has."""

    @property
    def ended(self) -> int:
        """Requests that it no longer has, of all that were ever sent."""


class _Read:
    """One reading of the engine, in progress."""

    def __init__(self, client: ProbeClient, work: Coroutine[Any, Any, NodeStatus], began_at: float, ended: int) -> None:
        self.client = client
        self.work = Metered(work)
        self.task = asyncio.ensure_future(self.work.run())
        self.began_at = began_at
        self.ended = ended  # the owner's count when it began


class Prober:
    """Reads one engine, at `engine.url`, through the adapter of its kind.

    It logs when the engine goes up or down or changes its models, not each probe.
    """

    def __init__(
        self,
        engine: EngineConfig,
        adapter: Adapter,
        make_client: Callable[[], ProbeClient],
        owner: Owner,
        interval_s: float,
        pacer: Pacer,
        clock: Callable[[], float],
        *,
        sleep: Callable[[float], asyncio.Future[None]] | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """
        Args:
            make_client: makes a client for the engine.
            interval_s: between two probes of an engine that is up, at least.
            pacer: decides when a probe that is due may begin.
            clock: monotonic seconds, without this process's own pauses.
            sleep: returns a future that is done after so many seconds.
            uniform: returns a random number between two limits.
        """
        if engine.url is None:
            raise ValueError(f"engine {engine.name} has no url to probe")
        self._engine = engine
        self._url = engine.url
        self._adapter = adapter
        self._make_client = make_client
        self._client = make_client()
        self._owner = owner
        self._interval_s = interval_s
        self._pacer = pacer
        self._clock = clock
        self._sleep = sleep or _sleep
        self._uniform = uniform
        self._vitals = Vitals(clock(), owner.signs)
        self._models: list[str] | None = None  # None: down, or not probed yet
        self._missing: list[str] = []  # models of the configuration that the engine does not list
        self._is_suspect = False  # or, while it is down, this probe is late as well
        self._failures = 0  # in a row
        self._began_at = clock()
        self._has_warned = False  # that it is down
        self._is_answered = False  # a reading of this probe has ended
        self._answer: asyncio.Future[None] | None = None  # the wait for one of `_reads`
        self._nap: asyncio.Future[None] | None = None  # the wait until the next probe is due
        self._turn: Turn | None = None  # it is due, and waits for its turn
        self._is_in_doubt = False  # the next probe shall not wait long for its turn
        self._cpu_s = 0.0  # of the probes so far
        self._reads: list[_Read] = []  # two at most: the first one, and one over another connection
        self._fresh_at = 0.0  # when a second connection is tried, or the next one
        self._fresh_s = FRESH_S

    def __repr__(self) -> str:
        state = "down" if self._failures else "unknown" if self._models is None else "up"
        return f"<Prober {self._engine.name} {state} failures={self._failures}>"

    def set_interval(self, interval_s: float) -> None:
        """Use another interval between probes from now on."""
        self._interval_s = interval_s

    async def run(self) -> None:
        """Probe until cancelled."""
        self._pacer.engines += 1
        try:
            while True:
                await self._probe_in_turn()
                await self._wait(self.delay_s() * self._uniform(1 - JITTER, 1 + JITTER))
        finally:
            self._pacer.engines -= 1
            self._client.close()

    async def _probe_in_turn(self) -> None:
        is_first = self._models is None and not self._failures
        turn = self._turn = self._pacer.ask(first=is_first, hurry=self._is_in_doubt or self._vitals.bad_answers > 0)
        try:
            await self._pacer.wait(turn)
        finally:
            self._turn = None
        self._is_in_doubt = False
        before_s = self._cpu_s
        answered = await self.probe()
        self._client.rest()
        self._pacer.end(turn, self._cpu_s - before_s, answered=answered)

    async def _wait(self, seconds: float) -> None:
        nap = self._nap = self._sleep(seconds)
        try:
            await nap
        finally:
            self._nap = None

    def wake(self) -> None:
        """Probe at once, if no probe is in progress: requests show that something is wrong."""
        if self._nap is not None:
            self._is_in_doubt = True
            _end(self._nap)
        elif self._turn is not None:
            self._pacer.hurry(self._turn)

    def delay_s(self) -> float:
        """Seconds until the next probe, before jitter."""
        if not self._failures:
            return min(RETRY_S, self._interval_s) if self._vitals.bad_answers else self._interval_s
        # The exponent is limited because 2.0**1024 overflows, which a night without the engine would reach.
        return min(RETRY_S * 2.0 ** min(self._failures - 1, 10), self._interval_s, MAX_RETRY_S)

    # -- one probe -------------------------------------------------------------------------------------------

    async def probe(self) -> bool:
        """Read the engine, and wait until there is an answer, or nothing more to wait for. Returns which of them."""
        now = began_at = self._clock()
        self._vitals.see(now, self._owner.signs)
        self._is_suspect &= self._models is not None
        self._fresh_at, self._fresh_s = now + LATE_S, FRESH_S
        self._is_answered = False
        self._begin(self._client, now)
        try:
            while now - began_at < LONGEST_S:
                await self._wait_for_answer()
                now = self._clock()
                if await self._is_over(now):
                    return self._is_answered
            return False
        finally:
            await self._drop(*self._reads)

    async def _wait_for_answer(self) -> None:
        """Return when a reading has ended, or after `LOOK_S`."""
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        look = loop.call_later(LOOK_S, _end, self._answer)
        try:
            if not any(read.task.done() for read in self._reads):
                await self._answer
        finally:
            look.cancel()

    def _reading_ended(self, _: object) -> None:
        if self._answer is not None:
            _end(self._answer)

    async def _is_over(self, now: float) -> bool:
        """Judge a reading that has ended, or else what there is to see meanwhile."""
        ended = next((read for read in self._reads if read.task.done()), None)
        if ended is not None:
            self._is_answered = True
            await self._drop(ended)
            return self._judge(ended)
        if self._is_given_up(now):
            return True
        if now >= self._fresh_at:
            await self._try_another_connection(now)
        return False

    def _begin(self, client: ProbeClient, now: float) -> None:
        read = _Read(client, self._adapter.read(client, float(self._engine.speed)), now, self._owner.ended)
        read.task.add_done_callback(self._reading_ended)
        self._reads.append(read)

    async def _drop(self, *reads: _Read) -> None:
        for read in reads:
            self._reads.remove(read)
            read.task.cancel()
        if unfinished := [read.task for read in reads if not read.task.done()]:
            await asyncio.wait(unfinished)
        for read in reads:
            self._cpu_s += read.work.cpu_s
            if not read.task.cancelled():
                read.task.exception()  # known, whether it is judged or not
            if read.client is not self._client:
                read.client.close()
                self._pacer.end_spare()

    async def _try_another_connection(self, now: float) -> None:
        """The first one may only have been forgotten by a firewall. The one before this, if any, is given up."""
        for read in self._reads[1:]:
            self._vitals.give_up()
            await self._drop(read)
        if self._pacer.begin_spare():
            self._begin(self._make_client(), now)
        self._fresh_at, self._fresh_s = now + self._fresh_s, 2 * self._fresh_s

    # -- judging ---------------------------------------------------------------------------------------------

    def _judge(self, read: _Read) -> bool:
        """A reading has ended. Returns whether the probe is over."""
        try:
            listed = read.task.result()
            status, missing = select_models(listed, self._engine.models)
            self._owner.report(status, self._owner.ended - read.ended)
        except OSError as error:
            return self._judge_error(read, f"{self._url}: {reason_of(error)}", proof_of(error))
        except HierarchyError as error:
            return self._judge_error(read, str(error), "bad")
        self._succeeded(status)
        self._log_missing(missing, listed)
        return True

    def _judge_error(self, read: _Read, reason: str, proof: Proof) -> bool:
        signs = self._vitals.see(self._clock(), self._owner.signs)
        if proof == "unreachable":
            if self._reads:
                return False  # the other connection shows whether the engine can be reached
            if signs or self._vitals.alive_at > read.began_at:
                return True
        elif proof == "own" or (proof == "bad" and not self._vitals.answered_badly() and self._models is not None):
            return True
        if proof == "refused" and self._owner.rests(reason):
            self._models = None
            self._failures += 1
            return True
        self.mark_down(reason)
        return True

    def _is_given_up(self, now: float) -> bool:
        """No answer yet. Returns whether the engine is dead."""
        vitals, owner = self._vitals, self._owner
        if vitals.see(now, owner.signs) and self._is_suspect:
            self._is_suspect = False
            owner.trust()
        if self._is_unreachable(now):
            self.mark_down(f"{self._url} cannot be reached: its machine acknowledges nothing")
            return True
        late = [read for read in self._reads if vitals.is_late(now, read.began_at)]
        if late and not self._is_suspect:
            self._is_suspect = True
            reason = f"{self._url} did not respond within {LATE_S:g} s"
            if self._models is None:
                self.mark_down(reason)
            else:
                owner.suspect(reason)
        if self._models is not None and vitals.is_dead(now, len(late), owner.requests):
            self.mark_down(f"{self._url} gave no sign of life for {now - vitals.alive_at:.0f} s")
            return True
        return False

    def _is_unreachable(self, now: float) -> bool:
        """Does the kernel get no answer on any connection?

        A SYN may also be lost because an engine that hangs does not accept connections, so an older connection on
        which its kernel answers counts more.
        """
        if now - self._vitals.alive_at < UNREACHABLE_S:
            return False
        silent = [read.client.unreachable_s(now - read.began_at) >= UNREACHABLE_S for read in self._reads]
        others = [read.client for read, is_silent in zip(self._reads, silent, strict=True) if not is_silent]
        return any(silent) and all(client.is_connecting for client in others)

    def _succeeded(self, status: NodeStatus) -> None:
        name, models = self._engine.name, status.model_names
        served = ", ".join(models) or "no model yet"
        if self._models is None:
            log.info("engine %s is up at %s and serves %s", name, self._url, served)
        elif models != self._models:
            log.info("engine %s changed its models: %s, was %s", name, served, ", ".join(self._models) or "none")
        self._models, self._failures, self._is_suspect = models, 0, False
        self._has_warned = False
        self._vitals.answered(self._clock(), self._owner.signs)

    def _log_missing(self, missing: list[str], listed: NodeStatus) -> None:
        if missing and missing != self._missing:
            lists = ", ".join(listed.model_names) or "no model"
            log.warning("engine %s lists %s, but not %s of its `models`", self._engine.name, lists, ", ".join(missing))
        self._missing = missing

    def mark_down(self, reason: str) -> None:
        """The engine cannot be used. The prober finds this out; so may its owner, from the connections for requests."""
        self._log_down(reason)
        self._models = None
        self._failures += 1
        self._owner.mark_down(reason)

    def _log_down(self, reason: str) -> None:
        """Once. That an engine needs a moment to start is no warning: nodes and engines start together."""
        is_starting = self._models is None and self._clock() < self._began_at + STARTING_S
        if self._has_warned or (is_starting and self._failures):
            return
        self._has_warned = not is_starting
        level, change = logging.INFO if is_starting else logging.WARNING, "went down"
        if self._models is None:
            change = "is not up yet"
        log.log(level, "engine %s %s (%s); probing it until it is up", self._engine.name, change, reason)


def _sleep(seconds: float) -> asyncio.Future[None]:
    """A future that is done after so many seconds, at a beat. Thousands of tasks that sleep would cost more."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.call_at(next_beat(loop.time() + seconds), _end, future)
    return future


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
