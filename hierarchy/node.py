"""One node, put together: start → run → stop. All its parts are built here and handed to each other here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from hierarchy.balancing.aliases import Aliases
from hierarchy.balancing.dispatch import Dispatch
from hierarchy.config.models import EngineConfig, NodeConfig, declared_models
from hierarchy.drain import Drains
from hierarchy.engines.manager import EngineManager
from hierarchy.gossip import Board, RecordFile
from hierarchy.gossip.file import UNSAVED
from hierarchy.introspection.changes import ChangeLog
from hierarchy.introspection.model_list import ModelList
from hierarchy.introspection.outgoing import Outgoing
from hierarchy.introspection.oversight import Oversight
from hierarchy.introspection.tree import TreeView
from hierarchy.labels import LabelSet
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.registry.health import Change
from hierarchy.registry.known_models import SETTLE_S
from hierarchy.registry.model_file import FILE_NAME, ModelFile
from hierarchy.relay.downstream.clients import Clients
from hierarchy.relay.downstream.places import Places
from hierarchy.relay.fingerprints import Fingerprints
from hierarchy.relay.lane import Lane
from hierarchy.relay.local_handlers import long_report_handler, report_handler
from hierarchy.relay.pings import Pings
from hierarchy.release import VERSION, build, data_path
from hierarchy.runtime.awake import AwakeClock
from hierarchy.runtime.http_client import plain_client
from hierarchy.runtime.loop_watch import LoopWatch
from hierarchy.runtime.metrics import Metrics, Sample
from hierarchy.runtime.slices import Slices
from hierarchy.runtime.tasks import BackgroundTasks
from hierarchy.security.access import Access
from hierarchy.security.url_claims import UrlClaims
from hierarchy.sweeps import Forgetting, Sweeps
from hierarchy.upkeep import Upkeep
from hierarchy.uplink.links import LinkReserve, ServeLink
from hierarchy.uplink.parents import Parents
from hierarchy.uplink.record_exchange import RecordExchange
from hierarchy.uplink.registration import Uplink
from hierarchy.wire.checks import MAX_WARNINGS
from hierarchy.wire.limits import limits
from hierarchy.wire.messages import Identity
from hierarchy.wire.offer import Offer
from hierarchy.wire.status import NodeStatus

DRAIN_NOTICE_S = 1.0  # in which the parents learn that this node is draining
LINKS_PER_S = 400.0  # that all children together may open to fill their reserves: about a tenth of a core
EXCHANGE = "exchange of records"  # name of the task
CHANGED_AT_ONCE = 32  # engines that are started or retired
T = TypeVar("T")
log = logging.getLogger("hierarchy.node")


class Node:
    """A running controller. `start` once it listens, `leave` before it stops listening, `stop` at the end.

    clock: monotonic seconds; by default without this process's own pauses, which count against no child or parent.
    environ: contains proxies, and secrets that the configuration refers to.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        clock: Callable[[], float] | None = None,
        rng: Random | None = None,
        environ: Mapping[str, str] = os.environ,
        access: Access | None = None,
        settle_s: float = SETTLE_S,
        engine_files: int | None = None,
    ) -> None:
        """
        Args:
            settle_s: how long after its start the node does not know which models there are.
            engine_files: soft limit of open files of the engines that it starts; None: that of this process.
        """
        settings = config.settings
        rng = rng or Random()
        self.awake = AwakeClock()
        self.watch = LoopWatch()
        self.slices = Slices()  # of all long responses, messages and checks
        clock = clock or self.awake
        self.config = config
        self.settings = settings
        self.identity = Identity(
            config.replica_of or config.name,
            config.advertise,
            secrets.token_hex(8),
            VERSION,
            settings.dispatch,
            replica=config.replica_of is not None,
            build=build(),
        )
        self.registry = Registry(self.identity, clock, settings.max_speed)
        self.registry.limits = limits(settings.max_body_bytes)
        self.registry.remember(settings.remember_s)
        self.aliases = Aliases(config.aliases, rng)
        self.dispatch = Dispatch(self.registry, settings.dispatch, rng, self.aliases)
        self.dispatch.set_tiers(config.prefer, settings.spill_after_s)
        self.metrics = Metrics(self.gauges, self.awake, self.watch)
        self._changes = ChangeLog(self.metrics)
        self.registry.on_change = self._child_changed
        self.models = ModelList(self.registry, clock, int(time.time()), self.aliases)
        self.access = access or Access(config, environ)
        self.view = TreeView(self.registry, clock, self.warnings, lambda: self.dispatch.tiers)
        file = self.access.shared_file
        self.board = _board(self.identity.name, self.access)
        self.drains = Drains(self.registry, self.board)
        policy = self.access.registration_policy
        self.urls = UrlClaims(self.registry, policy, self.access.dial_guard)
        if policy.records is not None:
            policy.records.share(self.board)
        handlers = {b"/receive_heart_beat": report_handler(self.registry, policy, self.board)}
        long_report = long_report_handler(self.registry, policy, self.board, self.slices)
        self._tasks = BackgroundTasks(clock)
        self._parents = Parents(self.identity, _Source(self), self.access, self.board, self._tasks, clock, rng, environ)
        self.engine_manager = EngineManager(
            self.registry, self.access, self._tasks, self._engine_down, settings, clock, files=engine_files
        )
        self.metrics.wakes = self.engine_manager.waking.outcomes
        self.lane = Lane(
            self.registry,
            self.dispatch,
            self.metrics,
            settings,
            self._parents.with_secret,
            clock,
            self.access,
            handlers,
            {b"/receive_heart_beat": long_report},
            Fingerprints(self.access.prefix_key),
            self.engine_manager.waking.wake,
        )
        lane, most = self.lane, settings.max_connections_per_address
        self.clients = Clients(Places(lane.descriptors, lane.warnings, clock, most))
        self._clock = clock
        self._rng = rng
        self._http: httpx.AsyncClient | None = None  # to the other instances
        self._child_transport: httpx.AsyncHTTPTransport | None = None  # to URLs that children registered
        self._settle_s = settle_s
        models = ModelFile(file.with_name(FILE_NAME)) if file is not None else None
        self._remembered = models.read() if models is not None else {}  # models of the last run, and their ages
        known, forget = self.registry.known, self.clients.heads.forget
        self._upkeep = Upkeep(self.access, self.board, models, known, clock, forget)
        self._forgetting = Forgetting(
            lane,
            self.clients,
            self.board,
            (self.models.forget, self.view.forget),
            self._tasks,
            self._hosts,
            settings.remember_s,
            clock,
        )
        further: dict[str, Callable[[], object]] = {
            "the sweep of links": self._parents.sweep_links,
            "forgetting what is gone": self._forgetting.sweep,
            "the upkeep of the index of prompts": self._keep_prefixes,
            "counting loads of models": self._count_loads,
            "measuring round trips": Pings(lane, clock).sweep,
            "measuring how long requests take": self.dispatch.sweep_tiers,
        }
        self.sweeps = Sweeps(lane, self.clients, self.engine_manager, self._tasks, further, clock)
        self._declare(config)
        self._keep_prefixes()
        self.draining = False  # no new requests are accepted, running streams finish

    @property
    def ready(self) -> bool:
        """Is there a model that clients can use?"""
        return bool(self.registry.model_names())

    @property
    def uplinks(self) -> list[Uplink]:
        """To the parents; do not change the list."""
        return self._parents.uplinks

    @property
    def reserves(self) -> list[LinkReserve]:
        """The links to the parents that this node dials; do not change the list."""
        return self._parents.reserves

    # -- life ------------------------------------------------------------------------------------------------

    def expect_children(self) -> None:
        """Call it right before the node listens: requests may come before any child has."""
        now, known = self._clock(), self.registry.known
        known.remember(self._remembered, now)
        known.start(now, self._settle_s)

    async def start(self, serve_link: ServeLink | None = None) -> None:
        """Start engines, probes and uplinks. The node must listen already, since parents dial back at once.

        serve_link: makes the protocol that serves a connection which this node dialled.
        """
        tls = self.access.tls.node
        self._http = plain_client(self.access.resolver, tls)
        # One request to each child, so no connection is kept for another one.
        once = httpx.Limits(max_keepalive_connections=0)
        self._child_transport = httpx.AsyncHTTPTransport(verify=tls, trust_env=False, limits=once)
        self.urls.start(self._child_transport)
        self._tasks.keep(self.awake.run, "clock")
        self.watch.start()
        self.registry.take_in_later = self._take_in_later
        await self._start_engines(self.config.engines)
        self._parents.start(self.config, serve_link)
        self._start_exchange()
        self._tasks.keep(self.sweeps.run, "sweep")
        self._upkeep.start(self._tasks)
        self._tasks.keep(self.sweeps.sweep_children_forever, "sweep of children")
        oversight = Oversight(self.view.tree_steps, self.identity.url, self.slices)
        self._tasks.keep(oversight.run, "oversight")

    def _take_in_later(self) -> None:
        """A child lists thousands of models: requests have their turns while they are taken in."""
        self._tasks.spawn(self.slices.run(self.registry.take_in_steps()), "taking in models")

    async def _start_engines(self, engines: Sequence[EngineConfig]) -> None:
        """Some at a time: requests, which may come at once, wait for no more than that."""
        for part in _parts(engines):
            for engine in part:
                self.engine_manager.start(engine)
            await asyncio.sleep(0)

    async def leave(self) -> None:
        """Tell the parents to send no new requests; returns when they know, or cannot be reached.

        The uplinks keep reporting, so that running streams do not look like those of a node that fell silent.
        """
        self.draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._parents.wait_until_draining_is_known(), DRAIN_NOTICE_S)
        self._parents.close_links()
        self.lane.drain()

    async def stop(self) -> None:
        """End everything that `start` began."""
        await self._parents.deregister()
        for task in self._tasks:
            if not task.get_name().startswith("engine "):  # the manager ends those
                task.cancel()
        self.watch.stop()
        self.registry.take_in_later = None
        self.lane.close()
        await self._upkeep.finish()
        await self.engine_manager.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._parents.close()
        for client in (self._http, self._child_transport):
            if client is not None:
                await client.aclose()

    # -- reload ----------------------------------------------------------------------------------------------

    async def apply(self, config: NodeConfig) -> list[str]:
        """Use another configuration of the same name and addresses; running streams are not affected.

        Thousands of engines are changed in parts, and requests are served meanwhile. Do not call it twice at a time.

        The engines' keys of the new configuration have been loaded before. Returns what changed, for the log.
        """
        old = self.config
        kept = {field: getattr(old, field) for field in ("listen", "advertise", "admin")}
        self.config = config.model_copy(update=kept)
        self._declare(config)
        self.clients.heads.forget()  # fields that are not forwarded may have changed
        changes = []
        if config.settings != old.settings:
            self._apply_settings(config)
            changes.append("settings")
        if config.prefer != old.prefer or config.settings.spill_after_s != old.settings.spill_after_s:
            self.dispatch.set_tiers(config.prefer, config.settings.spill_after_s)
        if config.prefer != old.prefer:
            changes.append("prefer")
        if _with_values(config.labels) != _with_values(old.labels):
            changes.append("labels")
        if config.aliases != old.aliases:
            self.dispatch.set_aliases(config.aliases)
            changes.append("aliases")
        if config.replicas != old.replicas:
            self._tasks.cancel(EXCHANGE)
            self._start_exchange()
            changes.append("replicas")
        return changes + await self._apply_engines(old, config) + self._parents.apply(old, config)

    def _apply_settings(self, config: NodeConfig) -> None:
        settings = self.settings = config.settings
        self.dispatch.set_policy(settings.dispatch)
        self.registry.set_max_speed(settings.max_speed)
        self.registry.limits = limits(settings.max_body_bytes)
        self.registry.remember(settings.remember_s)
        self._forgetting.remember_s = settings.remember_s
        self.lane.apply_settings(settings)
        if self.clients.places is not None:
            self.clients.places.most = settings.max_connections_per_address
        self.engine_manager.apply_settings(settings)
        self._parents.propose_interval(settings.report_interval_s)

    async def _apply_engines(self, old: NodeConfig, new: NodeConfig) -> list[str]:
        before, after = ({engine.name: engine for engine in config.engines} for config in (old, new))
        retired = {name for name in before if before[name] != after.get(name) or self.engine_manager.has_new_key(name)}
        started = [engine for name, engine in after.items() if name in retired or name not in before]
        for part in _parts([name for name in before if name in retired]):
            for name in part:
                self.engine_manager.retire(name)
            await asyncio.sleep(0)
        await self._start_engines(started)
        changes = [f"engine {name} {'changed' if name in after else 'removed'}" for name in before if name in retired]
        return changes + [f"engine {engine.name} added" for engine in started if engine.name not in before]

    def _declare(self, config: NodeConfig) -> None:
        """Note which models and children the configuration says there are."""
        models = {model for engine in config.engines for model in declared_models(engine)}
        aliased = {target.model for targets in config.aliases.values() for target in targets}
        self.registry.known.declare(models | aliased | {*config.models_below}, config.children, self._clock())
        self.registry.declare_labels(config.labels)

    def _hosts(self) -> set[str]:
        """The host names of the configuration: what is known of them is kept."""
        config = self.config
        urls = [*config.parents, *config.replicas, *(engine.url for engine in config.engines if engine.url)]
        return {urlsplit(url).hostname or "" for url in urls} | self._parents.proxies()

    def _start_exchange(self) -> None:
        """Pass used tokens and revocations on to the replicas whose URLs are known."""
        records = self.access.registration_policy.records
        if records is not None and self.config.replicas and self._http is not None:
            exchange = RecordExchange(records, self.config.replicas, self._http, self._rng)
            self._tasks.keep(exchange.run, EXCHANGE)

    def _keep_prefixes(self) -> None:
        """Follow what the parents and the configuration say of fingerprints, and how many engines are below."""
        fingerprints, prefixes = self.lane.fingerprints, self.dispatch.prefixes
        from_above = self._parents.prefix_key()
        fingerprints.use(self.access.prefix_key if from_above is None else from_above)
        self.registry.prefix_key = fingerprints.key
        fingerprints.has_siblings = bool(self.config.replica_of or self.config.replicas)
        fingerprints.shares = self.settings.share_prefixes
        self.metrics.prefix_fields_ignored = fingerprints.ignored
        self.metrics.labels_ignored = self.registry.labels_ignored
        if prefixes is not None:
            self.metrics.prefix_choices = prefixes.reasons
            prefixes.prior = fingerprints.has_siblings and not self.config.parents
            prefixes.index.memory = self.settings.index_memory
            prefixes.index.resize(self.registry.engine_count())

    def _count_loads(self) -> None:
        """Count the models that engines have loaded since the last call."""
        loads, self.registry.tally.loads = self.registry.tally.loads, []
        for share, took_s in loads:
            counts = self.metrics.of_share(*share.key, share.child.name)
            counts.loads += 1
            counts.load_s += took_s

    def is_parent(self, secret: str) -> bool:
        """Is this the secret that this node gave to a parent?"""
        return bool(secret) and self._parents.with_secret(secret.encode("latin-1"), 0) is not None

    # -- children -------------------------------------------------------------------------------------------

    def evict(self, child: Child, by: str) -> None:
        """Another child is at the URL of this one. Its requests go elsewhere."""
        if self.registry.children.get(child.name) is child:
            self.registry.remove(child.name)
            log.warning("%s was dropped: %s is at %s, and it is not", child.name, by, child.url)
            self._drop(child)

    def _drop(self, child: Child) -> None:
        self.clients.drop_child(child)
        self.lane.close_pool(child)

    def links_per_s(self) -> float:
        """Links a second that each child may open to fill its reserve."""
        return LINKS_PER_S / max(1, sum(child.reverse for child in self.registry))

    def request_status(self, child: Child) -> None:
        """Request a FastChat worker's status in the background, as soon as it listens."""
        self.engine_manager.request_status(child)

    def _child_changed(self, change: Change) -> None:
        self._changes.note(change)
        if change.state == "ejected":
            self.engine_manager.probe_soon(change.child)

    def _engine_down(self, child: Child, reason: str) -> None:
        """Move its waiting requests: the connections of a process that hangs may still be open."""
        self.clients.rescue(child, reason)

    # -- operators -------------------------------------------------------------------------------------------

    def warnings(self) -> list[str]:
        """What is wrong with this node, for operators."""
        return (self.access.warnings() + self._tasks.warnings())[:MAX_WARNINGS]

    async def revoke(self, name: str) -> bool:
        """Make everything that was issued to this child void, and disconnect it. Returns whether it was registered.

        Raises:
            RequestError: this node issues no credentials, or what it did could not be saved.
        """
        policy = self.access.registration_policy
        policy.revoke(name)
        was_here = name in self.sweeps.disconnect_revoked()
        await policy.save_revocation(name)
        await self.board.save()
        return was_here

    def gauges(self) -> Iterable[Sample]:
        """The gauges of `/metrics`. Others run between two of them, and children come and go."""
        now = self._clock()
        yield "hierarchy_build_info", (self.identity.version, self.identity.build, data_path()), 1.0
        for child in list(self.registry):
            name = (child.name,)
            state = child.state(now)
            yield "hierarchy_child_up", (child.name, child.kind, state), float(state == "up")
            yield "hierarchy_child_speed", name, child.status.speed
            for share in list(child.shares.values()):
                if share.slots:
                    yield "hierarchy_child_slots", (*share.key, child.name), float(share.slots)
            yield "hierarchy_child_queue_length", name, float(child.total.value)
            yield "hierarchy_requests_in_flight", name, float(child.in_flight)
            yield from _hit_rates(child)
            if cold := sum(share.load_s > 0 for share in child.shares.values()):
                yield "hierarchy_child_models_cold", name, float(cold)
            if child.round_trip.is_known:
                yield "hierarchy_child_round_trip_seconds", name, child.round_trip.seconds
            if self.dispatch.prefixes is not None:
                pending = sum(share.pending for share in child.shares.values())
                yield "hierarchy_prompt_bytes_pending", name, float(pending)
        for child in list(self.registry.departed.values()):  # an alert on all children sees that there were some
            yield "hierarchy_child_up", (child.name, child.kind, "gone"), 0.0
        for uplink in list(self.uplinks):
            yield "hierarchy_uplink_up", (uplink.parent,), float(uplink.registered)
        yield from self.access.gauges()
        yield from self.lane.gauges()
        yield "hierarchy_requests_waking", (), float(self.engine_manager.waking.waiting)
        if self.dispatch.prefixes is not None:
            index = self.dispatch.prefixes.index
            yield "hierarchy_prefix_index_entries", (), float(len(index))
            yield "hierarchy_prefix_index_bytes", (), float(index.bytes_at_most)
        yield "hierarchy_connections", (), float(len(self.clients))
        yield "hierarchy_loop_longest_hold_seconds", (), self.watch.longest_s

    def __repr__(self) -> str:
        return f"<Node {self.identity.name} children={len(self.registry)} uplinks={self.uplinks}>"


def _with_values(labels: Mapping[str, LabelSet]) -> dict[str, LabelSet]:
    """The children that have labels."""
    return {name: own for name, own in labels.items() if own}


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many at a time as one step of the event loop may take on."""
    return (items[begin : begin + CHANGED_AT_ONCE] for begin in range(0, len(items), CHANGED_AT_ONCE))


def _board(name: str, access: Access) -> Board:
    """The shared records that the node knows, from its file if it has one."""
    file = access.shared_file
    if file is None:
        return Board(name, access.shared_keys)
    return Board(name, access.shared_keys, RecordFile(file), place=access.disk.file(file, UNSAVED))


class _Source:
    """What an uplink reports: this node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._outgoing = Outgoing(node.registry, node.view)
        self.path = self._outgoing.path
        self.children_steps = self._outgoing.children_steps
        self.status_steps = node.registry.status_steps

    def status(self) -> NodeStatus:
        status = self._outgoing.status()
        # With its queue, which the parent counts until this node is gone.
        return NodeStatus((), 0.0, status.queue_length) if self._node.draining else status

    def draining(self) -> bool:
        return self._node.draining

    def incomplete(self) -> bool:
        return self._node.registry.is_incomplete()

    def labels(self) -> list[Offer]:
        return self._outgoing.labels()

    def warnings(self) -> list[str]:
        return self._node.warnings()


def _hit_rates(child: Child) -> Iterator[Sample]:
    """Of each model once, whatever its API families are."""
    rates = {key[0]: share.engine_hits for key, share in list(child.shares.items())}
    for model, hits in rates.items():
        if hits is not None and hits.value is not None:
            yield "hierarchy_engine_cache_hit_rate", (child.name, model), hits.value
