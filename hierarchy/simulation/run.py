"""One simulation, from a tree, a load and a policy to a result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from random import Random
from typing import Final, NamedTuple

from hierarchy.balancing.lent_attempts import MAX_ATTEMPTS
from hierarchy.balancing.policy import POLICIES
from hierarchy.config.yaml import closest
from hierarchy.errors import UsageError
from hierarchy.simulation.central import CentralRouter
from hierarchy.simulation.events import Events
from hierarchy.simulation.load import Load
from hierarchy.simulation.measures import Measures, Result
from hierarchy.simulation.node import SWEEP_S
from hierarchy.simulation.request import Conversation, Request, Turn
from hierarchy.simulation.tree import Hardware, Tree
from hierarchy.topology.declared import DeclaredTree
from hierarchy.wire.status import ModelKey

CENTRAL: Final = ("central", "central_queue")  # routers that exist in simulations only
DECLARED: Final = "declared"  # what the configuration says, node by node
STEP: Final = 20_000  # events between two calls of `progress`
PARTS: Final = 60  # of the time, in a picture


class Scenario(NamedTuple):
    """What is simulated, whatever the policy."""

    tree: DeclaredTree
    load: Callable[[], Load]  #: makes the same load each time
    hardware: Hardware = Hardware()
    seed: int = 1
    model: str = ""  #: the only one that clients request; "": all, in proportion to the speed of their engines
    round_trips_s: Mapping[str, float] = {}  #: name of a node or engine: to its parents and back
    losses: tuple[tuple[str, float], ...] = ()  #: a node or engine, and when it is lost
    marks: tuple[tuple[str, float], ...] = ()  #: what else happens, and when
    warm_up_s: float | None = None  #: None: what the load needs

    @property
    def lost(self) -> list[tuple[str, float]]:
        """What is lost, in words, and when."""
        return [(f"{name} lost", at_s) for name, at_s in self.losses]


def known_policies() -> list[str]:
    """What `simulate` accepts as a policy."""
    return [DECLARED, *POLICIES, *CENTRAL]


def simulate(scenario: Scenario, policy: str = DECLARED, progress: Callable[[int, int], None] | None = None) -> Result:
    """Run it to its end.

    progress: called now and then with the conversations that have begun, and all of them.

    Raises:
        UsageError: it is not a whole tree, or has no engine for the model.
    """
    if scenario.tree.config.slice is not None:
        raise UsageError(f"{scenario.tree.source.file}: is a slice; simulate the file of the whole tree")
    return _Simulation(scenario, policy).run(progress or (lambda _, __: None))


class _Simulation:
    def __init__(self, scenario: Scenario, policy: str) -> None:
        self.events = Events()
        self.measures = Measures()
        self._policy = policy
        self._load = scenario.load()
        declared = None if policy in (DECLARED, *CENTRAL) else policy
        self._tree = Tree(
            scenario.tree,
            declared,
            scenario.hardware,
            scenario.round_trips_s,
            self.events,
            scenario.seed,
            self._first,
            self._end,
            self._failed,
        )
        self._router = self._central(policy)
        self._rng = Random(scenario.seed + 1)
        keys = {key: speed for key, speed in self._tree.keys().items() if scenario.model in ("", key[0])}
        if not keys:
            names = sorted({name for engine in self._tree.engines.values() for name in engine.models})
            raise UsageError(f"--model {scenario.model}: no engine serves it; {closest(scenario.model, names)}")
        self._keys, self._speeds = list(keys), list(keys.values())
        self._active: dict[Request, None] = {}
        self._thinking = 0  # conversations whose client has not sent its next request yet
        self._begun = 0
        self._last_began_at = math.inf  # of all conversations; infinite until it is known
        self._warm_up_s = self._load.warm_up_s if scenario.warm_up_s is None else scenario.warm_up_s
        self._busy_before = [0.0] * len(self._tree.engines)
        self._idle_before = self._slots_before = 0.0
        self._busy = [0.0] * len(self._tree.engines)
        self._idle = self._slots = 0.0
        self._marks = [*scenario.lost, *scenario.marks]
        self._lost: set[int] = set()  # numbers of engines
        for name, at_s in scenario.losses:
            self.events.at(at_s, self._lose, self._tree.find(name))
        if scenario.losses:
            for node in self._tree.nodes.values():
                self.events.at(self._rng.random() * SWEEP_S, node.sweep)

    def _central(self, policy: str) -> CentralRouter | None:
        if policy not in CENTRAL:
            return None
        tree = self._tree
        far = max(tree.delays_s[name] for name in tree.engines)
        return CentralRouter(
            list(tree.engines.values()), self.events, tree.rng, far, self._failed, by_cache=policy == "central"
        )

    # -- the load --------------------------------------------------------------------------------------------

    def run(self, progress: Callable[[int, int], None]) -> Result:
        self.events.at(self._warm_up_s, self._begin_to_count)
        for _ in range(max(1, self._load.clients)):
            self._plan_next()
        while not self._is_over():
            self.events.run(most=STEP)
            progress(self._begun, self._load.total)
        return self._result()

    def _is_over(self) -> bool:
        if self._last_began_at == math.inf or self._active:
            return False
        return self._load.is_cut or not self._thinking

    def _plan_next(self) -> None:
        """The next conversation: when the last one has begun, so that memory is bounded, or when one has ended."""
        conversation = next(self._load.conversations, None)
        if conversation is None:
            if self._last_began_at == math.inf:
                self._last_began_at = self.events.now
                self._stop_counting()
        else:
            self.events.at(max(conversation.begins_at, self.events.now), self._begin, conversation)

    def _begin(self, conversation: Conversation) -> None:
        self._begun += 1
        keys = self._keys
        key = keys[0] if len(keys) == 1 else self._rng.choices(keys, self._speeds)[0]
        self._continue(conversation, key)
        if not self._load.clients:
            self._plan_next()

    def _continue(self, conversation: Conversation, key: ModelKey) -> None:
        """The next request of a conversation, after the client has thought."""
        if self._load.is_cut and self._last_began_at < math.inf:
            return
        turn = next(conversation.turns, None)
        if turn is None:
            if self._load.clients:
                self._plan_next()
            return
        self._thinking += 1
        self.events.after(turn.after_s, self._enter, conversation, turn, key)

    def _enter(self, conversation: Conversation, turn: Turn, key: ModelKey) -> None:
        self._thinking -= 1
        if self._load.is_cut and self._last_began_at < math.inf:
            return
        request = Request(conversation, turn, key, self.events.now, MAX_ATTEMPTS)
        self._active[request] = None
        if self._router is not None:
            self._router.enter(request)
        else:
            self._tree.enter(request)

    # -- what comes of requests ------------------------------------------------------------------------------

    def _first(self, request: Request) -> None:
        if self._router is not None:
            self._router.first_byte(request)

    def _end(self, request: Request) -> None:
        if self._router is not None:
            self._router.ended(request)
        del self._active[request]
        self.measures.ended(request, self.events.now)
        self._go_on(request)

    def _failed(self, request: Request) -> None:
        """Nothing could serve it, or what did was lost. The client sends its next question later all the same."""
        del self._active[request]
        self.measures.failed += 1
        self._go_on(request)

    def _go_on(self, request: Request) -> None:
        self._continue(request.conversation, request.key)
        if self._is_over():
            self.events.stop()

    def _lose(self, names: list[str]) -> None:
        tree = self._tree
        self._lost |= {tree.engines[name].number for name in names if name in tree.engines}
        if self._router is None:
            for request in tree.lose(names, list(self._active)):
                self._failed(request)
            return
        tree.lose(names, [])
        for request in [one for one in self._active if one.engine in self._lost]:
            if request.first_at:
                self._router.ended(request)
                self._failed(request)
            elif request.queued_at:
                self._router.lost(request)

    # -- counting --------------------------------------------------------------------------------------------

    def _begin_to_count(self) -> None:
        if self._last_began_at < math.inf:
            return  # it was all over before that
        tree = self._tree
        tree.queues.count()
        self._busy_before = [engine.busy() for engine in tree.engines.values()]
        self._idle_before, self._slots_before = tree.queues.idle_s, tree.queues.slots_s

    def _stop_counting(self) -> None:
        tree = self._tree
        tree.queues.count()
        self._busy = [engine.busy() for engine in tree.engines.values()]
        self._idle, self._slots = tree.queues.idle_s, tree.queues.slots_s

    def _result(self) -> Result:
        measures, end = self.measures, self._last_began_at
        is_steady = self._warm_up_s < end and self._warm_up_s >= self._load.steady_s
        begin = self._warm_up_s if self._warm_up_s < end else 0.0
        if not self._load.is_cut:
            end = self.events.now
            self._stop_counting()
        counted = measures.since(begin)
        ended = sum(begin <= at < end for at in measures.ended_at)
        length_s = max(end - begin, 1e-9)
        busy = self._busy_of_each(length_s)
        slots_s = self._slots - self._slots_before
        return Result(
            policy=self._policy,
            requests=len(counted),
            failed=measures.failed,
            ttft=measures.ttft(counted),
            wait=measures.wait(counted),
            hit_rate=measures.hit_rate(counted),
            requests_per_s=ended / length_s / max(1, len(busy)),
            busy=math.fsum(busy) / max(1, len(busy)),
            busy_least=min(busy, default=0.0),
            busy_most=max(busy, default=0.0),
            idle_while_waiting=(self._idle - self._idle_before) / slots_s if slots_s else 0.0,
            is_steady=is_steady,
            counted_from_s=begin,
            simulated_s=end,
            events=self.events.count,
            models=measures.models(counted),
            phases=measures.phases(begin, end, self._marks) if self._marks else (),
            moments=measures.moments(end, PARTS),
        )

    def _busy_of_each(self, length_s: float) -> list[float]:
        """The part of its slots that was in use, of each engine that was not lost."""
        return [
            (self._busy[engine.number] - self._busy_before[engine.number]) / (engine.rates.slots * length_s)
            for engine in self._tree.engines.values()
            if engine.number not in self._lost
        ]
