"""A node: the production registry and dispatch, with what the network and the engines do around them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.config.models import Settings
from hierarchy.errors import RequestError
from hierarchy.registry import Registry
from hierarchy.registry.child import Child, Lease
from hierarchy.simulation.engine import Engine
from hierarchy.simulation.events import Events
from hierarchy.simulation.request import Hop, Opened, Request
from hierarchy.simulation.uplink import Uplink
from hierarchy.wire.messages import HeartBeat, Identity

PROBE_JITTER: Final = 0.2  # part of the time between two probes that is random
SWEEP_S: Final = 0.5  # between two sweeps of the children


class Link:
    """The connection of a node to one child.

    delay_s: of a message, one way.
    """

    __slots__ = ("delay_s", "target", "uplink")

    def __init__(self, target: Node | Engine, uplink: Uplink | None, delay_s: float) -> None:
        self.target = target
        self.uplink = uplink
        self.delay_s = delay_s


class Node:
    """One node.

    on_failed: is called with a request that nothing here can serve.
    """

    def __init__(
        self,
        identity: Identity,
        settings: Settings,
        policy: str,
        events: Events,
        rng: Random,
        on_failed: Callable[[Request], None],
    ) -> None:
        self.name = identity.name
        self.settings = settings
        self.registry = Registry(identity, events.clock, settings.max_speed)
        self.dispatch = Dispatch(self.registry, policy, rng)
        self.dead = False
        self.uplinks: list[Uplink] = []
        self.links: dict[Child, Link] = {}
        self._events = events
        self._rng = rng
        self._on_failed = on_failed

    # -- children --------------------------------------------------------------------------------------------

    def add_engine(self, engine: Engine, kind: str, delay_s: float, start_speed: float = 0.0) -> None:
        """Declare an engine, and probe it from now on. start_speed: if its speed is measured."""
        child = self.registry.declare(engine.name, f"http://{engine.name}:1", kind)
        child.start_speed = start_speed
        child.round_trip.note(2 * delay_s, self.registry.now())
        self.links[child] = Link(engine, None, delay_s)
        self.registry.report(child, engine.status())
        self._events.after(self._rng.random() * self.settings.probe_interval_s, self._probe, child)

    def add_node(self, node: Node, uplink: Uplink) -> None:
        """A child registers."""
        child = uplink.register()
        child.round_trip.note(2 * uplink.delay_s, self.registry.now())
        self.links[child] = Link(node, uplink, uplink.delay_s)

    def _probe(self, child: Child) -> None:
        if self.dead:
            return
        link = self.links[child]
        engine = link.target
        if isinstance(engine, Engine):
            if engine.dead:
                self.registry.mark_down(child, "it cannot be reached")
            else:
                self.registry.report(child, engine.status())
            self.changed()
        wait_s = self.settings.probe_interval_s * self._rng.uniform(1 - PROBE_JITTER, 1 + PROBE_JITTER)
        self._events.after(wait_s, self._probe, child)

    def heart_beat(self, message: HeartBeat) -> None:
        """A child's report arrives."""
        if not self.dead:
            self.registry.heart_beat(message)
            self.changed()

    def changed(self) -> None:
        """The load has changed, which parents may have to know."""
        for uplink in self.uplinks:
            uplink.changed()

    def sweep(self) -> None:
        """What a node does twice a second."""
        if not self.dead:
            self.registry.sweep()
            self.dispatch.sweep_tiers()
            self.changed()
            self._events.after(SWEEP_S, self.sweep)

    # -- requests --------------------------------------------------------------------------------------------

    def receive(self, request: Request, uplink: Uplink | None = None, number: int = 0) -> None:
        """A request arrives. uplink: to the parent that sent it, with this number; None for a client."""
        if uplink is not None and number > uplink.seen:
            uplink.seen = number
        self._attempt(request, uplink)

    def _attempt(self, request: Request, uplink: Opened | None) -> None:
        try:
            lease = self._lease(request)
        except RequestError:
            self._give_up(request)
            return
        link = self.links[lease.share.child]
        hop = Hop(self, lease, uplink, link.target, link.delay_s)
        hop.sent_at, hop.chunks = self._events.now, request.turn.output_tokens
        request.hops.append(hop)
        request.key = lease.share.key
        request.delay_s += link.delay_s
        if uplink is not None:
            uplink.open += 1
        self.changed()
        self._events.after(link.delay_s, self._deliver, request, hop, link)

    def _lease(self, request: Request) -> Lease:
        """The child that the policy takes."""
        return self.dispatch.lease(request.key, request.passed, translated=True, prefix=request.fingerprint)

    def _deliver(self, request: Request, hop: Hop, link: Link) -> None:
        """A request arrives at the other end of a link, if there is one."""
        if not request.hops or request.hops[-1] is not hop:
            return  # it has been lost meanwhile
        target = link.target
        if target.dead:
            self.failed(request, reached=False)
        elif isinstance(target, Engine):
            target.receive(request)
        else:
            target.receive(request, link.uplink, hop.lease.ordinal)

    def failed(self, request: Request, *, reached: bool) -> None:
        """The child of the last hop is not there (any more): try another one. reached: it had the request."""
        share = request.hops[-1].lease.share
        self.registry.failed(share, "cut" if reached else "unreachable", "it cannot be reached")
        request.left -= 1
        self.again(request)

    def again(self, request: Request) -> None:
        """Take a request back from its last child, and try another one."""
        hop = request.hops.pop()
        request.delay_s -= hop.delay_s
        self.ended(hop)
        request.passed.append(hop.lease.share.child)
        if request.left > 0:
            self._attempt(request, hop.uplink)
        else:
            self._give_up(request)

    def _give_up(self, request: Request) -> None:
        """Nothing here can serve it: the node above tries another child, if there is one."""
        if request.hops:
            request.hops[-1].node.again(request)
        else:
            self._on_failed(request)

    def first_byte(self, hop: Hop) -> None:
        """A response begins."""
        share = hop.lease.share
        if share.rates is not None:
            hop.began_at = self._events.now
            if share.slots and share.open > share.slots:
                share.rates.skip(hop.began_at)
            else:
                share.rates.note_first(hop.lease.pending, hop.sent_at, hop.began_at)
        hop.lease.first_byte()
        if share.failures is not None or share.child.failures is not None:
            self.registry.first_byte(share)

    def ended(self, hop: Hop) -> None:
        """A response has ended, or the request has failed."""
        rates = hop.lease.share.rates
        if rates is not None and hop.began_at:
            rates.note_end(hop.chunks - 1, self._events.now - hop.began_at)
        hop.lease.release()
        if hop.uplink is not None:
            hop.uplink.open -= 1
        self.changed()

    def __repr__(self) -> str:
        return f"<Node {self.name} children={len(self.registry)}>"
