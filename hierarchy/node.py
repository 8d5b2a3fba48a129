"""One node, put together: start → run → stop. Nothing else in the package builds these objects."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from random import Random

import httpx

from hierarchy.balancing.aliases import Aliases
from hierarchy.balancing.dispatch import Dispatch
from hierarchy.config.address import is_loopback
from hierarchy.config.models import NodeConfig
from hierarchy.engines.manager import EngineManager
from hierarchy.introspection.oversight import Oversight
from hierarchy.introspection.tree import TreeView
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.relay.downstream.clients import Clients
from hierarchy.relay.lane import Lane
from hierarchy.relay.local_handlers import report_handler
from hierarchy.runtime.metrics import Metrics, Sample
from hierarchy.runtime.tasks import BackgroundTasks
from hierarchy.security.access import Access
from hierarchy.security.dial_guard import GuardedTransport
from hierarchy.uplink.dial import proxy_for
from hierarchy.uplink.links import LinkReserve, ServeLink
from hierarchy.uplink.registration import Uplink
from hierarchy.wire.messages import Identity, Registration
from hierarchy.wire.status import NodeStatus

WARM_S = 8.0  # for the children to find a replica that just started; more than their longest wait
TOLD_S = 1.0  # for the parents to hear that nothing new shall come
DIAL_BACK_S = 2.0  # for a child with `link: auto` to be reached at its own URL
LINKS_PER_S = 400.0  # that children together may open to fill their reserves: some tenth of a core
SWEEP_S = 0.5  # how often deadlines are looked at; they are late by this much at most
log = logging.getLogger("hierarchy.node")


class Node:
    """A running controller. `start` once it listens, `leave` before it stops listening, `stop` at the end.

    clock: monotonic seconds. environ: names the proxies, and secrets.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
        environ: Mapping[str, str] = os.environ,
        access: Access | None = None,
    ) -> None:
        settings = config.settings
        rng = rng or Random()
        self.config = config
        self.settings = settings
        self.identity = Identity(
            config.replica_of or config.name,
            config.advertise,
            secrets.token_hex(8),
            version("hierarchy"),
            settings.dispatch,
            replica=config.replica_of is not None,
        )
        self.registry = Registry(self.identity, clock, settings.max_speed)
        self.aliases = Aliases(config.aliases, rng)
        self.dispatch = Dispatch(self.registry, settings.dispatch, rng, self.aliases)
        self.metrics = Metrics(self.gauges)
        self.view = TreeView(self.registry, clock, int(time.time()), self.aliases)
        self.access = access or Access(config, environ)
        handlers = {b"/receive_heart_beat": report_handler(self.registry, self.access.registration_policy)}
        self.lane = Lane(
            self.registry, self.dispatch, self.metrics, settings, self._believed, clock, self.access, handlers
        )
        self.clients = Clients()
        self.uplinks: list[Uplink] = []
        self.reserves: list[LinkReserve] = []
        self._serve_link: ServeLink | None = None  # None: this node cannot keep reverse links
        self._clock = clock
        self._rng = rng
        self._environ = environ
        self._http: httpx.AsyncClient | None = None  # to parents
        self._proxied: list[httpx.AsyncClient] = []  # to parents, through a proxy
        self._child_transport: httpx.AsyncHTTPTransport | None = None  # to URLs that children registered
        self._tasks = BackgroundTasks()
        self.engine_manager = EngineManager(
            self.registry, self.access, self._tasks, self._engine_down, settings, clock, self._child_client
        )
        self.draining = False  # nothing new is taken, running streams finish

    @property
    def ready(self) -> bool:
        """Is there a model that can be asked for?"""
        return bool(self.registry.model_names())

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self, serve_link: ServeLink | None = None) -> None:
        """Start engines, probes, uplinks. Must be called when the node already listens: parents dial back at once.

        serve_link: makes the protocol that serves a connection which this node dialled.
        """
        self._serve_link = serve_link
        tls = self.access.tls.node
        # trust_env: a proxy from the environment is for the internet, not for the machines of one's own tree.
        self._http = httpx.AsyncClient(verify=tls, trust_env=False, follow_redirects=False)
        self._child_transport = httpx.AsyncHTTPTransport(verify=tls, trust_env=False)
        if self.identity.replica:  # others served until now, and clients come here at once
            self.lane.warm_until = self._clock() + WARM_S
        for engine in self.config.engines:
            self.engine_manager.start(engine)
        for parent in self.config.parents:
            self._start_uplink(parent, self._http)
        self._tasks.spawn(self._sweep_for_ever(), "sweep")
        self._tasks.spawn(Oversight(self.view.tree, self.identity.url).run(), "oversight")

    def apply(self, config: NodeConfig) -> list[str]:
        """Go on by another configuration of the same name and addresses; running streams notice nothing.

        Returns what changed, in words.
        """
        done = []
        old, self.config = (
            self.config,
            config.model_copy(
                update={field: getattr(self.config, field) for field in ("listen", "advertise", "admin")}
            ),
        )
        if config.settings != old.settings:
            self._renew_settings(config)
            done.append("settings")
        if config.aliases != old.aliases:
            self.dispatch.set_aliases(config.aliases)
            done.append("aliases")
        self._renew_keys()
        before, after = ({engine.name: engine for engine in one.engines} for one in (old, config))
        for name in before:
            if before[name] != after.get(name):
                self.engine_manager.retire(name)
                done.append(f"engine {name} {'changed' if name in after else 'removed'}")
        for name, engine in after.items():
            if engine != before.get(name):
                self.engine_manager.start(engine)
                if name not in before:
                    done.append(f"engine {name} added")
        assert self._http is not None
        for parent in old.parents:
            if parent not in config.parents:
                self._stop_uplink(parent)
                done.append(f"parent {parent} removed")
        for parent in config.parents:
            if parent not in old.parents:
                self._start_uplink(parent, self._http)
                done.append(f"parent {parent} added")
        return done

    def _renew_settings(self, config: NodeConfig) -> None:
        settings = self.settings = config.settings
        self.dispatch.set_policy(settings.dispatch)
        self.registry.max_speed = settings.max_speed
        self.lane.renew(settings)
        self.engine_manager.apply_settings(settings)
        for uplink in self.uplinks:
            uplink.propose_interval(settings.report_interval_s)

    def _renew_keys(self) -> None:
        """The engines' own keys were read before, by whoever calls `apply`."""
        if self.access.stripped_fields != self.lane.stripped:
            self.lane.stripped = self.access.stripped_fields
            self.clients.heads.forget()

    def _stop_uplink(self, parent: str) -> None:
        self._tasks.cancel(f"uplink to {parent}")
        for uplink in [uplink for uplink in self.uplinks if uplink.parent == parent]:
            for reserve in [reserve for reserve in self.reserves if reserve is uplink.listener]:
                self.reserves.remove(reserve)
                reserve.close()
            self._tasks.spawn(self._part(uplink), f"deregistration from {parent}")

    async def _part(self, uplink: Uplink) -> None:
        """Its requests that still run are believed until they have ended."""
        await uplink.deregister()
        await asyncio.sleep(self.settings.grace_s)
        self.uplinks.remove(uplink)

    async def leave(self) -> None:
        """Tell the parents that no new request shall come; returns when they know, or cannot be told.

        The uplinks go on, so that running streams do not look like those of a node that fell silent.
        """
        self.draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                asyncio.gather(*(uplink.wait_until_draining_is_known() for uplink in self.uplinks)), TOLD_S
            )
        for reserve in self.reserves:
            reserve.close()
        self.lane.drain()

    async def stop(self) -> None:
        """End everything that `start` began."""
        for task in [task for task in self._tasks if task.get_name().startswith("uplink")]:
            task.cancel()
        await asyncio.gather(*(uplink.deregister() for uplink in self.uplinks))
        for task in self._tasks:
            if not task.get_name().startswith("engine "):  # those end in good order, by `stop`
                task.cancel()
        self.lane.close()
        await self.engine_manager.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in (self._http, self._child_transport, *self._proxied):
            if client is not None:
                await client.aclose()

    def _start_uplink(self, parent: str, http: httpx.AsyncClient) -> None:
        """Register with a parent, and keep links to it if they are to be dialled from here."""
        link = self.config.link
        proxy = proxy_for(parent, self.config.proxy, self._environ, link)
        if proxy is not None:
            http = httpx.AsyncClient(
                trust_env=False, follow_redirects=False, verify=self.access.tls.node, proxy=proxy.url
            )
            self._proxied.append(http)
        interval_s = self.settings.report_interval_s
        uplink = Uplink(
            parent,
            self.identity,
            _Source(self),
            http,
            interval_s,
            clock=self._clock,
            rng=self._rng,
            link=link,
            credentials=self.access.credentials,
        )
        if link != "direct" and self._serve_link is not None:
            timeout_s = self.settings.connect_timeout_s
            uplink.listener = reserve = LinkReserve(
                uplink,
                self.identity,
                self._serve_link,
                timeout_s,
                tls=self.access.tls.node if parent.startswith("https:") else None,
                proxy=proxy,
                clock=self._clock,
                rng=self._rng,
            )
            self.reserves.append(reserve)
        self.uplinks.append(uplink)
        self._tasks.spawn(uplink.run(), f"uplink to {parent}")

    def is_parent(self, secret: str) -> bool:
        """Does whoever shows this secret have it from us, as a parent has?"""
        return bool(secret) and self._believed(secret.encode("latin-1"), 0) is not None

    # -- children -------------------------------------------------------------------------------------------

    async def wants_reverse(self, message: Registration, peer: str) -> bool:
        """Shall a node that registers from the IP address `peer` dial the connections for our requests?

        Raises:
            InvalidField: as `Registry.register`; nothing was dialled.
        """
        if message.link != "auto":
            return message.link == "reverse"
        message.check(self.registry.max_speed)
        may_dial = self.access.registration_policy.may_dial(message.worker_name, peer)
        return not (may_dial and await self._reaches(message, local=is_loopback(peer)))

    async def _reaches(self, message: Registration, *, local: bool) -> bool:
        """Is that the process behind its URL, as seen from here?"""
        http = self._child_client(local)
        assert http is not None
        url, shown = f"{message.worker_name.rstrip('/')}/health", {"x-hierarchy-auth": message.secret}
        try:
            async with asyncio.timeout(DIAL_BACK_S):
                answer = await http.get(url, headers=shown)
            return answer.status_code == 200 and bool(answer.json().get("instance") == message.instance)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, AttributeError):
            return False

    def _child_client(self, local: bool) -> httpx.AsyncClient | None:
        """A client for requests to the URL that a child registered; None before `start`. local: on this machine."""
        if self._child_transport is None:
            return None
        transport = GuardedTransport(self._child_transport, self.access.dial_guard, local=local)
        return httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)

    def links_per_s(self) -> float:
        """How fast each child may fill its reserve of links."""
        return LINKS_PER_S / max(1, sum(child.reverse for child in self.registry))

    def ask_status(self, child: Child) -> None:
        """Ask a FastChat worker for its status, as soon as it listens."""
        self.engine_manager.request_status(child)

    def _engine_down(self, child: Child, why: str) -> None:
        """Its connections may still be open, as those of a process that hangs are."""
        self.clients.rescue(child, why)

    # -- background ------------------------------------------------------------------------------------------

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for child in self.registry.sweep():
                log.warning("dropped %s: nothing heard of it", child.name)
            for child in self.registry.newly_silent():
                self.clients.rescue(child, "it is silent")
            self.lane.sweep()
            self.clients.sweep(self._clock())
            for reserve in self.reserves:
                reserve.sweep()
            self._look_at_keys()

    def _look_at_keys(self) -> None:
        """What was changed in files, by `hierarchy key` or by a replica, comes into force."""
        if self.access.refresh():
            self.clients.heads.forget()
        if self.access.registration_policy.refresh():
            self._expel_void()

    def revoke(self, name: str) -> bool:
        """Nothing that was issued to this child holds any more; it is shut out. Returns whether it was here.

        Raises:
            RequestError: that could not be written down, or this node issues nothing.
        """
        self.access.registration_policy.revoke(name)
        return name in self._expel_void()

    def _expel_void(self) -> list[str]:
        void = self.access.registration_policy.revoked(child.group or child.name for child in self.registry)
        for child in [child for child in self.registry if (child.group or child.name) in void]:
            self.registry.remove(child.name)
            log.warning("%s was shut out: its credential was revoked", child.name)
            self.clients.drop_child(child)
            self.lane.close_pool(child)
        return void

    def _believed(self, secret: bytes, seq: int) -> Uplink | None:
        """The uplink to the parent that knows this secret; the request's number is noted there."""
        for uplink in self.uplinks:
            if uplink.believes(secret, seq):
                return uplink
        return None

    def gauges(self) -> Iterable[Sample]:
        """What `/metrics` shows beside the counters."""
        now = self._clock()
        for child in self.registry:
            status, name = child.current(), (child.name,)
            state = child.state(now)
            yield "hierarchy_child_up", (child.name, child.kind, state), float(state == "up")
            yield "hierarchy_child_speed", name, status.speed
            yield "hierarchy_child_queue_length", name, float(status.queue_length)
            yield "hierarchy_requests_in_flight", name, float(child.in_flight)
        for uplink in self.uplinks:
            yield "hierarchy_uplink_up", (uplink.parent,), float(uplink.registered)
        yield from self.lane.gauges()
        yield "hierarchy_connections", (), float(len(self.clients))

    def __repr__(self) -> str:
        return f"<Node {self.identity.name} children={len(self.registry)} uplinks={self.uplinks}>"


class _Source:
    """What an uplink tells of: this node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.path = node.registry.path
        self.children = node.view.children

    def status(self) -> NodeStatus:
        status = self._node.registry.status()
        # With its queue, which those who count it until it is gone want to know.
        return NodeStatus((), 0.0, status.queue_length) if self._node.draining else status

    def draining(self) -> bool:
        return self._node.draining
