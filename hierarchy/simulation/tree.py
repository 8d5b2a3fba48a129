"""A whole tree: nodes and engines from a configuration, connected, with a place where clients come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Final, NamedTuple

from hierarchy.config.models import EngineSpec
from hierarchy.config.speed import MeasuredSpeed
from hierarchy.errors import UsageError
from hierarchy.prefix.fingerprint import Fingerprint, Hasher
from hierarchy.simulation.engine import Engine, Rates
from hierarchy.simulation.events import Events
from hierarchy.simulation.node import Node
from hierarchy.simulation.prompt import BYTES_PER_TOKEN, text
from hierarchy.simulation.queues import Queues
from hierarchy.simulation.request import Hop, Request
from hierarchy.simulation.uplink import Uplink
from hierarchy.topology import node_config
from hierarchy.topology.declared import DeclaredTree
from hierarchy.topology.graph import Member
from hierarchy.wire.messages import Identity
from hierarchy.wire.status import Api, ModelKey

ANY_MODEL: Final = "model"  # of engines whose configuration does not tell what they serve
HOP_S: Final = 0.0002  # of a message between two nodes, one way, unless something else is known


class Hardware(NamedTuple):
    """Of engines that the configuration says nothing about. At speed 2 an engine reads and writes twice as fast."""

    slots: int = 32
    prefill_tokens_per_s: float = 8000.0
    decode_tokens_per_s: float = 50.0
    cache_tokens: int = 400_000
    block_tokens: int = 16
    chunk_tokens: int = 2048

    def rates(self, spec: EngineSpec) -> Rates:
        """What one engine can do. The configuration has the rates of simulated engines."""
        if spec.kind == "simulated":
            own = spec.simulated
            cache = own.cache_tokens or self.cache_tokens
            slots, prefill, decode = own.slots, own.prefill_tokens_per_s, own.decode_tokens_per_s
        else:
            slots, cache = self.slots, self.cache_tokens
            prefill, decode = self.prefill_tokens_per_s * spec.speed, self.decode_tokens_per_s * spec.speed
        return Rates(slots, prefill, decode, cache, self.block_tokens, self.chunk_tokens)


class Tree:
    """The nodes and engines of a simulation.

    Args:
        policy: of all nodes; None for what the configuration says.
        round_trips_s: name of a node or engine: to its parents and back.
        on_first, on_end, on_failed: called with a request.
    """

    def __init__(
        self,
        declared: DeclaredTree,
        policy: str | None,
        hardware: Hardware,
        round_trips_s: Mapping[str, float],
        events: Events,
        seed: int,
        on_first: Callable[[Request], None],
        on_end: Callable[[Request], None],
        on_failed: Callable[[Request], None],
    ) -> None:
        declared.require_valid()
        self.events = events
        self.queues = Queues(events)
        self.nodes: dict[str, Node] = {}
        self.engines: dict[str, Engine] = {}
        self.rng = Random(seed)
        self._declared = declared
        self._hardware = hardware
        self._on_first, self._on_end, self._on_failed = on_first, on_end, on_failed
        graph = declared.graph
        for member in graph:
            if member.is_node:
                self._add_node(member, policy)
            else:
                self._add_engine(member)
        self.delays_s = {name: round_trips_s.get(name, 2 * HOP_S) / 2 for name in (*self.nodes, *self.engines)}
        self._connect_engines()
        self._connect_nodes()
        self.entries = [self.nodes[member.key] for member in graph if member.is_node and not member.parents]
        self._hasher = Hasher(b"simulation")
        self._set_up_prefixes()

    def _add_node(self, member: Member, policy: str | None) -> None:
        config = node_config.part_of(self._declared, member.key)
        identity = Identity(
            config.replica_of or config.name,
            f"http://{member.key}:1",
            member.key,
            dispatch=policy or config.settings.dispatch,
            replica=config.replica_of is not None,
        )
        rng = Random(self.rng.random())
        node = Node(identity, config.settings, identity.dispatch, self.events, rng, self._on_failed)
        node.dispatch.set_tiers(config.prefer, config.settings.spill_after_s)
        self.nodes[member.key] = node

    def _add_engine(self, member: Member) -> None:
        spec = self._declared.config.engines[member.name]
        api: Api = "fastchat" if spec.kind == "fastchat" else "openai"
        engine = Engine(
            member.key,
            len(self.engines),
            member.models or (ANY_MODEL,),
            api,
            float(spec.speed),
            self._hardware.rates(spec),
            self.events,
            self.queues,
            self._first,
            self._end,
        )
        self.engines[member.key] = engine

    def _connect_engines(self) -> None:
        for member in self._declared.graph:
            if not member.is_node:
                engine = self.engines[member.key]
                speed = self._declared.config.engines[member.name].speed
                start = float(speed) if isinstance(speed, MeasuredSpeed) else 0.0
                for parent in member.parents:
                    self.nodes[parent].add_engine(engine, member.kind, self.delays_s[member.key], start)

    def _connect_nodes(self) -> None:
        """From the bottom up, so that each node knows its models when it registers."""
        depth = self._depths()
        for member in sorted(self._declared.graph.nodes.values(), key=lambda one: -depth[one.key]):
            node = self.nodes[member.key]
            for parent in member.parents:
                uplink = Uplink(node, self.nodes[parent], self.delays_s[member.key], self.events, self.rng)
                node.uplinks.append(uplink)
                self.nodes[parent].add_node(node, uplink)

    def _depths(self) -> dict[str, int]:
        graph = self._declared.graph
        depth: dict[str, int] = {}

        def of(key: str) -> int:
            if key not in depth:
                depth[key] = 1 + max((of(parent) for parent in graph.members[key].parents), default=0)
            return depth[key]

        for key in graph.members:
            of(key)
        return depth

    def _set_up_prefixes(self) -> None:
        """As a node does when it knows its children."""
        for node in self.nodes.values():
            prefixes = node.dispatch.prefixes
            if prefixes is not None:
                prefixes.index.memory = node.settings.index_memory
                prefixes.index.resize(len(self.find(node.name)))
                prefixes.prior = node in self.entries and len(self.entries) > 1

    # -- clients ---------------------------------------------------------------------------------------------

    def keys(self) -> dict[ModelKey, float]:
        """The models, and the speed of the engines that serve each."""
        keys: dict[ModelKey, float] = {}
        for engine in self.engines.values():
            for model in engine.models:
                key: ModelKey = (model, engine.api)
                keys[key] = keys.get(key, 0.0) + engine.speed / len(engine.models)
        return keys

    def enter(self, request: Request) -> None:
        """A client sends a request to one of the entry nodes, whichever."""
        entries = self.entries
        entry = entries[0] if len(entries) == 1 else self.rng.choice(entries)
        if entry.dead:
            entry = next((one for one in entries if not one.dead), entry)
        if entry.dead:
            self._on_failed(request)
            return
        if entry.dispatch.prefixes is not None:
            request.fingerprint = self._fingerprint(request)
        entry.receive(request)

    def _fingerprint(self, request: Request) -> Fingerprint | None:
        """As an entry node takes it from a body: the production code, from the bytes of the prompt."""
        prompt = request.prompt
        found = self._hasher.take(text(prompt), prompt.tokens * BYTES_PER_TOKEN, self._hasher.salt(request.key[0]))
        if found is not None and request.conversation.session:
            found.session = self._hasher.digest(b"%d" % request.conversation.session)
        return found

    def _first(self, request: Request) -> None:
        """The first token leaves the engine, and passes the nodes on its way up."""
        later = 0.0
        for hop in reversed(request.hops):
            later += hop.delay_s
            self.events.after(later, hop.node.first_byte, hop)
        self._on_first(request)

    def _end(self, request: Request) -> None:
        later = 0.0
        for hop in reversed(request.hops):
            later += hop.delay_s
            self.events.after(later, hop.node.ended, hop)
        request.hops.clear()
        self._on_end(request)

    # -- losses ----------------------------------------------------------------------------------------------

    def find(self, name: str) -> list[str]:
        """What is lost with a node or an engine: itself and all that only it connects. Raises `UsageError`."""
        graph = self._declared.graph
        if name not in graph.members:
            raise UsageError(f"--lose {name}: no node or engine of that name in {self._declared.source.file}")
        lost = {name}
        grows = True
        while grows:
            below = {one.key for one in graph if one.parents and lost.issuperset(one.parents)} - lost
            lost |= below
            grows = bool(below)
        return sorted(lost)

    def lose(self, names: list[str], active: list[Request]) -> list[Request]:
        """All these end now, as if the power went. Returns the requests that are cut: their responses had begun.

        active: all requests in the tree.
        """
        for name in names:
            if name in self.nodes:
                self.nodes[name].dead = True
            if name in self.engines:
                self.engines[name].die()
        return [request for request in active if self._is_cut(request)]

    def _is_cut(self, request: Request) -> bool:
        """Take a request back from what is lost. Returns whether its response had begun; else it is tried again."""
        hops = request.hops
        first = next((n for n, hop in enumerate(hops) if hop.node.dead or hop.target.dead), None)
        if first is None:
            return False
        is_over = hops[first].node.dead or request.first_at > 0
        if isinstance(hops[-1].target, Engine):
            hops[-1].target.cancel(request)
        while len(hops) > (0 if is_over else first + 1):
            hop = hops.pop()
            request.delay_s -= hop.delay_s
            hop.node.ended(hop)
        if not is_over:
            self.events.after(hops[first].delay_s, self._retry, request, hops[first])
        return is_over

    def _retry(self, request: Request, hop: Hop) -> None:
        if request.hops and request.hops[-1] is hop:  # else it came there just then, and has been tried again
            hop.node.failed(request, reached=True)

    def __repr__(self) -> str:
        return f"<Tree of {len(self.nodes)} nodes, {len(self.engines)} engines>"
