"""The server side of the data path, as all of a node's connections share it."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.balancing.retry_budget import RetryBudget
from hierarchy.config.models import Settings
from hierarchy.errors import ChildFailed, ModelNotFound, RequestError, Unavailable
from hierarchy.http.dialect import OPENAI, Dialect
from hierarchy.http.request_head import RequestHead, lane_path
from hierarchy.registry import Registry
from hierarchy.registry.child import Child, Share
from hierarchy.relay.downstream.connection import FastPath
from hierarchy.relay.downstream.head_cache import Seen
from hierarchy.relay.downstream.local_handlers import Handler, Local
from hierarchy.relay.downstream.protocol import LaneProtocol
from hierarchy.relay.exchange import Exchange
from hierarchy.relay.retry import Parent
from hierarchy.relay.timeouts import Limits
from hierarchy.relay.upstream.links import LINK_PATH, LinkPool, turn_round
from hierarchy.relay.upstream.pool import Pool
from hierarchy.runtime.metrics import Metrics, Sample, Tally
from hierarchy.security.access import Access
from hierarchy.security.keys import ANYONE, Caller

SWEEP_S = 0.5  # how often deadlines are looked at; they are late by this much at most
log = logging.getLogger("hierarchy.lane")

Trust = Callable[[bytes, int], Parent | None]


class Lane:
    """What all connections of a node share.

    trust: tells to which parent we gave a secret, if to any, and notes the request's number as received from it.
    """

    def __init__(
        self, registry: Registry, dispatch: Dispatch, metrics: Metrics, settings: Settings, trust: Trust,
        clock: Callable[[], float], access: Access,
    ) -> None:  # fmt: skip
        self.registry = registry
        self.dispatch = dispatch
        self.metrics = metrics
        self.settings = settings
        self.trust = trust
        self.clock = clock
        self.access = access
        self.stripped = access.stripped_fields
        self.budget = RetryBudget(clock)
        self.warm_until = -math.inf  # until when a model that nobody serves may only not be known yet
        self._parked: list[Exchange] = []
        self.seen = Seen()
        self.access_log: Callable[[Exchange, str], None] | None = _log_access if settings.access_log else None
        self.local: dict[bytes, Handler] = {LINK_PATH: _pong}  # POST paths that are answered at once, by a function
        self._pools: dict[str, Pool] = {}
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()

    def route(self, target: bytes) -> tuple[Dialect, bytes] | None:
        """Dialect and target of a request that the lane takes; None for the app's."""
        if target in self.local:
            return OPENAI, target
        return lane_path(target)

    def exchange(self, protocol: FastPath, head: RequestHead, now: float) -> Exchange:
        """For a request whose head has come."""
        handler = self.local.get(head.target)
        exchange = Exchange(protocol, self, head, now) if handler is None else Local(protocol, self, head, now, handler)
        if self._draining:
            exchange.keep_alive = False
        return exchange

    def caller(self, target: bytes, fields: dict[bytes, bytes]) -> Caller:
        """Who asks; what children send to a node itself is theirs to judge that answer it."""
        return ANYONE if target in self.local else self.access.identify_caller(fields)

    def is_stranger(self, shown: bytes, peer: str) -> bool:
        """Is whoever shows this secret none of our children, where that matters?"""
        policy = self.access.registration_policy
        if not policy.in_force or policy.is_trusted_peer(peer):
            return False
        return not any(policy.secret_matches(child.secret, shown) for child in self.registry)

    def pool(self, child: Child) -> Pool:
        """The child's connections. A child that moved or was replaced gets new ones."""
        pool = self._pools.get(child.name)
        if pool is None or pool.child is not child or pool.url != child.url:
            if pool is not None:
                pool.close()
            contexts, guard = self.access.tls, None if child.declared else self.access.dial_guard
            tls = (contexts.engine if child.declared else contexts.node) if child.tls else None
            kind = LinkPool if child.reverse else Pool
            pool = self._pools[child.name] = kind(child, self.settings.connect_timeout_s, tls, self.clock, guard)
        child.pool = pool
        return pool

    def registered(self, child: Child) -> int:
        """The child has registered, perhaps as another process or with another kind of link than before.

        Returns how many requests wait for a link of it.
        """
        pool = self._pools.get(child.name)
        if pool is not None and isinstance(pool, LinkPool) is not child.reverse:
            del self._pools[child.name]
            child.pool = None
            pool.close()
        elif isinstance(pool, LinkPool):
            if pool.instance != child.instance:
                pool.renew()
            return pool.waiting
        return 0

    def turn_round(self, transport: asyncio.Transport, child: Child) -> None:
        """Use a connection that this child dialled for requests to it."""
        pool = self.pool(child)
        assert isinstance(pool, LinkPool)
        turn_round(transport, pool, self.clock())

    def tally(self, share: Share) -> Tally:
        """The counts for a share; looked up once."""
        tally: Tally | None = share.tally
        if tally is None:
            tally = share.tally = self.metrics.tally(*share.key, share.child.name)
        return tally

    def limits(self, share: Share) -> Limits:
        """The time limits of a share's model; looked up once."""
        limits: Limits | None = share.limits
        if limits is None:
            limits = share.limits = Limits.of(self.settings, share.key[0])
        return limits

    def renew(self, settings: Settings) -> None:
        """Go on by other settings, from the next request on."""
        self.settings = settings
        self.access_log = _log_access if settings.access_log else None
        for child in self.registry:
            for share in child.shares.values():
                share.limits = None

    def park(self, exchange: Exchange, error: RequestError) -> bool:
        """Keep a request that nobody can serve yet, while a replica that just started waits for its children."""
        if not isinstance(error, (ModelNotFound, Unavailable)) or self.clock() >= self.warm_until:
            return False
        self._parked.append(exchange)
        return True

    def may_retry(self) -> bool:
        """Take a place in the retry budget, if there is one."""
        children = self.registry.children.values()
        return self.budget.take(sum(child.in_flight for child in children), sum(child.sent for child in children))

    def rescue(self, child: Child, connections: set[Any], why: str) -> None:
        """The child is known to be dead: send those of its requests that got no byte yet elsewhere."""
        for protocol in list(connections):
            if isinstance(protocol, LaneProtocol):
                protocol.give_up_on(child, why)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the uncommon case that has to await something."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def gauges(self) -> Iterable[Sample]:
        """The links of each child that dials."""
        for name, pool in self._pools.items():
            if isinstance(pool, LinkPool):
                for state, count in (("idle", len(pool.links) - pool.busy), ("busy", pool.busy)):
                    yield "hierarchy_links", (name, state), float(count)
                yield "hierarchy_links_wanted", (name,), float(pool.waiting)

    def sweep(self, connections: set[Any]) -> None:
        """Look at every deadline: of clients' connections, and of idle ones to children."""
        now = self.clock()
        self.budget.end_trouble()
        parked, self._parked = self._parked, []
        for exchange in parked:
            if not exchange.response_complete:
                exchange.go(now)
        for protocol in list(connections):
            if isinstance(protocol, LaneProtocol) and now >= protocol.deadline:
                protocol.check_clock(now)
        for name, pool in list(self._pools.items()):
            pool.sweep()
            if self.registry.children.get(name) is not pool.child:
                pool.close()
                del self._pools[name]

    def expel(self, child: Child, connections: set[Any]) -> None:
        """A child is no longer one: end what it is answering, and close all connections to it."""
        for protocol in list(connections):
            if isinstance(protocol, LaneProtocol):
                protocol.drop_child(child, ChildFailed(f"{child.name} was shut out"))
        child.pool = None
        pool = self._pools.pop(child.name, None)
        if pool is not None:
            pool.close()

    def drain(self) -> None:
        """Take what still comes, and let every connection end with its answer."""
        self.settings = self.settings.model_copy(update={"keep_alive_s": 0.0})
        self._draining = True

    def cut_all(self, connections: set[Any]) -> None:
        """The grace is over: end what still runs, with an error that its client can read."""
        for protocol in list(connections):
            if isinstance(protocol, LaneProtocol):
                protocol.cut(Unavailable("this node is shutting down"))

    def close(self) -> None:
        """Close all connections to children."""
        for pool in self._pools.values():
            pool.close()

    def protocol_factory(self) -> Callable[..., LaneProtocol]:
        """For `uvicorn.Config(http=...)`."""
        return functools.partial(LaneProtocol, self)


def _pong(body: bytes, shown: bytes, peer: str) -> bytes:
    """What the parent's pings of idle links are answered."""
    return b"{}"


def _log_access(exchange: Exchange, outcome: str) -> None:
    log.info("access %r %s", exchange, outcome)
