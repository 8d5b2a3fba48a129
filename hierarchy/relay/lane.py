"""The data path of one node: what all of its exchanges share.

The lane knows the children's connections and what is kept for each share; it decides nothing about a single request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.balancing.retry_budget import RetryBudget
from hierarchy.config.models import Settings
from hierarchy.errors import BadRequest, HeadTooLarge, InvalidApiKey, OutOfConnections, PathNotAllowed, RequestError
from hierarchy.http.content_type import ambiguity
from hierarchy.http.dialect import OPENAI, Dialect
from hierarchy.http.link_handshake import LINK_PATH
from hierarchy.http.request_head import lane_path
from hierarchy.registry import Registry
from hierarchy.registry.child import Child, Share
from hierarchy.relay.fingerprints import Fingerprints
from hierarchy.relay.held_bytes import HeldBytes
from hierarchy.relay.local_handlers import Handler, LongHandler, pong
from hierarchy.relay.request import Parent, Request
from hierarchy.relay.timeouts import Timeouts
from hierarchy.relay.turns import Turns
from hierarchy.relay.upstream.destination import Destination
from hierarchy.relay.upstream.links import LinkPool, accept_link
from hierarchy.relay.upstream.pool import Pool
from hierarchy.relay.waiting_room import WaitingRoom
from hierarchy.relay.warnings import Warnings
from hierarchy.runtime import descriptors
from hierarchy.runtime.descriptors import Descriptors
from hierarchy.runtime.metrics import Metrics, Sample
from hierarchy.runtime.tasks import BackgroundTasks
from hierarchy.security.access import Access
from hierarchy.security.caller import ANYONE, Caller

LEAST_LINKS: Final = 64  # that the instances of one child may have, however few descriptors are free
log = logging.getLogger("hierarchy.lane")

Trust = Callable[[bytes, int], Parent | None]
Wake = Callable[[Child], Awaitable[str]]


class Lane:
    """What all exchanges of a node share.

    trust: the parent that has this secret of this node, if any; notes the request's number as received from it.
    handlers: POST paths that this node answers itself, at once: reports come by the thousand a second.
    long_handlers: of those, what answers a large request.
    wake: waits until a child that sleeps is awake; returns "", or why it is not, as a sentence without its subject.
    """

    def __init__(
        self, registry: Registry, dispatch: Dispatch, metrics: Metrics, settings: Settings, trust: Trust,
        clock: Callable[[], float], access: Access, handlers: Mapping[bytes, Handler] | None = None,
        long_handlers: Mapping[bytes, LongHandler] | None = None, fingerprints: Fingerprints | None = None,
        wake: Wake | None = None,
    ) -> None:  # fmt: skip
        self.registry = registry
        self.dispatch = dispatch
        self.metrics = metrics
        self.settings = settings
        self.trust = trust
        self.clock = clock
        self.access = access
        self.handlers: dict[bytes, Handler] = {LINK_PATH: pong, **(handlers or {})}
        self.fingerprints = fingerprints if fingerprints is not None else Fingerprints()
        self.long_handlers: dict[bytes, LongHandler] = {**(long_handlers or {})}
        self.wake: Wake = wake if wake is not None else _cannot_wake
        self.held = HeldBytes(settings.held_bytes)
        self.turns = Turns(self.held)
        self.descriptors = Descriptors(descriptors.limit())
        self.descriptors.givers.append(self._close_idle)
        self.retry_budget = RetryBudget(clock)
        self.warnings = Warnings(clock)
        self.waiting_room = WaitingRoom(clock, registry.has_available, settings.hold_s)
        registry.subscribe(self.waiting_room.appeared)
        self.access_log: Callable[[object, str], None] | None = _log_access if settings.access_log else None
        self.draining = False  # each connection ends with its response
        self._pools: dict[str, Pool] = {}  # by the child's name
        self._destinations: dict[Share, Destination] = {}
        self._tasks = BackgroundTasks()

    # -- requests ------------------------------------------------------------------------------------------------

    def route(self, target: bytes) -> tuple[Dialect, bytes] | None:
        """Dialect and target of a request that the lane takes; None for the HTTP API's."""
        if target in self.handlers:
            return OPENAI, target
        return lane_path(target)

    def caller(self, target: bytes, fields: dict[bytes, bytes]) -> Caller:
        """Who sends a POST. What children send to the node itself is judged by its handler.

        Raises:
            ForeignOrigin, UnknownHost: a web page sends it, which may not.
        """
        access = self.access
        if target in self.handlers:
            access.browsers.check_child(fields)
            return ANYONE
        if not access.requires_api_key:
            access.browsers.check_client(b"POST", fields)
        return access.identify_caller(fields)

    def refusal(self, caller: Caller, target: bytes, fields: dict[bytes, bytes]) -> RequestError | None:
        """Why a request is refused because of its head, unless a parent sends it; None if it is not.

        fields: of the head, which this node uses.
        """
        if target in self.handlers:
            return None
        if caller.refusal:
            return InvalidApiKey(caller.refusal)
        path = target.partition(b"?")[0].decode("ascii", "replace")
        if reason := self.access.path_problem(caller, "POST", path):
            return PathNotAllowed(reason)
        reason = ambiguity(target, fields)
        return BadRequest(reason) if reason else None

    def head_too_large(self) -> HeadTooLarge:
        """The error for a head over this node's limits."""
        settings = self.settings
        limits = f"{settings.max_head_bytes} bytes or {settings.max_head_fields} fields"
        return HeadTooLarge(f"the request's head is over the limit of {limits}")

    def is_stranger(self, secret: bytes, peer: str) -> bool:
        """Is this not the secret of a child, at a node where that matters?"""
        policy = self.access.registration_policy
        if not policy.in_force or policy.is_trusted_peer(peer):
            return False
        return not self.registry.directory.with_secret(secret)

    def has_retry_room(self) -> bool:
        """Does the retry budget have a place for one more retry?"""
        return self.retry_budget.has_room(*self._sums())

    def take_retry_place(self, request: Request) -> bool:
        """Give the request a place in the retry budget, if there is one; the exchange gives it back when it ends."""
        if not request.has_retry_place:
            request.has_retry_place = self.retry_budget.take(*self._sums())
        return request.has_retry_place

    def count_retry(self, request: Request) -> None:
        """A retry begins for which the request has a place in the budget, or `has_retry_room` found one."""
        if not request.has_retry_place:
            request.has_retry_place = True
            self.retry_budget.claim()
        self.retry_budget.note(1)

    def _sums(self) -> tuple[int, int]:
        """Requests in flight, and those ever sent, over all children."""
        tally = self.registry.tally
        return tally.open, tally.sent

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run the uncommon case that has to await something."""
        self._tasks.spawn(work, name)

    # -- children ------------------------------------------------------------------------------------------------

    def destination(self, share: Share) -> Destination:
        """Where requests for a share go."""
        known = self._destinations.get(share)
        if known is not None and not known.pool.closed and known.pool.url == share.child.url:
            return known  # else the child moved, or another one took its name
        metrics = self.metrics.of_share(*share.key, share.child.name)
        timeouts = Timeouts.of(self.settings, share.key[0])
        made = self._destinations[share] = Destination(share, self.pool(share.child), timeouts, metrics)
        return made

    def pool(self, child: Child) -> Pool:
        """The child's connections. A child that moved or was replaced gets new ones."""
        pool = self._pools.get(child.name)
        if pool is None or pool.child is not child or pool.url != child.url:
            if pool is not None:
                pool.close()
            contexts, guard = self.access.tls, None if child.declared else self.access.dial_guard
            tls = (contexts.engine if child.declared else contexts.node) if child.tls else None
            kind = LinkPool if child.reverse else Pool
            pool = self._pools[child.name] = kind(
                child,
                self.settings.connect_timeout_s,
                tls,
                self.clock,
                guard,
                self.access.resolver,
                self.turns,
                self.descriptors,
            )
        return pool

    def registered(self, child: Child) -> int:
        """The child has registered, perhaps as another process or with another kind of link than before.

        Returns how many requests wait for one of its links.
        """
        pool = self._pools.get(child.name)
        if pool is not None and isinstance(pool, LinkPool) is not child.reverse:
            del self._pools[child.name]
            pool.close()
        elif isinstance(pool, LinkPool):
            if pool.instance != child.instance:
                pool.renew()
            return pool.waiting
        return 0

    def check_link_room(self, child: Child) -> None:
        """Raise `OutOfConnections` if a child, with all who share its credential, has more links than others leave."""
        name = child.group or child.name
        pools = [pool for pool in self._pools.values() if (pool.child.group or pool.child.name) == name]
        count = sum(len(pool.links) for pool in pools if isinstance(pool, LinkPool))
        if count >= max(LEAST_LINKS, self.descriptors.free):
            raise OutOfConnections(f"{name} has {count} links, as many as are left for all others")

    def accept_link(self, transport: asyncio.Transport, child: Child) -> None:
        """Use a connection that this child dialled for requests to it."""
        pool = self.pool(child)
        if isinstance(pool, LinkPool):
            accept_link(transport, pool, self.clock())
        else:  # it has registered with a direct link meanwhile
            transport.abort()

    def close_pool(self, child: Child) -> None:
        """Close all connections to a child that is no longer one."""
        pool = self._pools.pop(child.name, None)
        if pool is not None:
            pool.close()

    def _close_idle(self) -> None:
        """Descriptors run short: close the idle connections to children. Links are not dialled here, and stay."""
        for pool in self._pools.values():
            if not isinstance(pool, LinkPool):
                pool.close_idle()

    # -- life ----------------------------------------------------------------------------------------------------

    def apply_settings(self, settings: Settings) -> None:
        """Use other settings, from the next request on."""
        self.settings = settings
        self.held.limit = settings.held_bytes
        self.waiting_room.hold_s = settings.hold_s
        self.access_log = _log_access if settings.access_log else None
        self._destinations.clear()

    def forget_heads(self) -> None:
        """Forget the beginnings of requests: those that come again are made again."""
        for pool in self._pools.values():
            pool.forget_openings()

    def busy(self) -> set[tuple[str, str]]:
        """(child, model) of all attempts that run."""
        shares = [share for share in self._destinations if share.open]
        return {(share.child.name, share.key[0]) for share in shares}

    def sweep(self) -> None:
        """Twice a second: look at the held requests, close idle connections, forget what belongs to former children."""
        self.retry_budget.end_trouble()
        self.warnings.sweep()
        self.waiting_room.sweep()
        for name, pool in list(self._pools.items()):
            pool.sweep()
            if self.registry.children.get(name) is not pool.child:
                pool.close()
                del self._pools[name]
        for share, destination in list(self._destinations.items()):
            if share.open == 0 and (destination.pool.closed or share.child.shares.get(share.key) is not share):
                del self._destinations[share]

    def drain(self) -> None:
        """Take what still comes, but hold nothing more, and let every connection end with its response."""
        self.waiting_room.hold_s = 0.0
        self.settings = self.settings.model_copy(update={"keep_alive_s": 0.0})
        self.draining = True

    def close(self) -> None:
        """Close all connections to children."""
        self.warnings.flush()
        for pool in self._pools.values():
            pool.close()

    def gauges(self) -> Iterable[Sample]:
        """Held requests, and the links of each child that dials, for `/metrics`."""
        yield "hierarchy_requests_held", (), float(len(self.waiting_room))
        yield "hierarchy_held_bytes", (), float(self.held.total)
        for name, pool in list(self._pools.items()):  # others run between two of them
            if isinstance(pool, LinkPool):
                for state, count in (("idle", len(pool.links) - pool.busy), ("busy", pool.busy)):
                    yield "hierarchy_links", (name, state), float(count)
                yield "hierarchy_links_wanted", (name,), float(pool.waiting)

    def __repr__(self) -> str:
        return f"<Lane pools={len(self._pools)} destinations={len(self._destinations)}>"


async def _cannot_wake(child: Child) -> str:
    return "sleeps, and cannot be woken up"


def _log_access(exchange: object, outcome: str) -> None:
    log.info("access %r %s", exchange, outcome)
