"""The parents of one node, as its configuration says: an uplink to each, and the links that it dials to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from random import Random

import httpx

from hierarchy.config.models import NodeConfig
from hierarchy.gossip import Board
from hierarchy.runtime.http_client import plain_client
from hierarchy.runtime.slices import Slices
from hierarchy.runtime.tasks import BackgroundTasks
from hierarchy.security.access import Access
from hierarchy.uplink.dial import proxy_for
from hierarchy.uplink.links import LinkReserve, ServeLink
from hierarchy.uplink.registration import Source, Uplink
from hierarchy.wire.messages import Identity


class Parents:
    """Starts and ends the uplinks of one node.

    Attributes:
        uplinks: to the parents of now, and to those that this node is leaving.
        reserves: of links, to the parents that this node dials.
    """

    def __init__(
        self,
        identity: Identity,
        source: Source,
        access: Access,
        board: Board,
        tasks: BackgroundTasks,
        clock: Callable[[], float],
        rng: Random,
        environ: Mapping[str, str],
    ) -> None:
        """
        Args:
            source: what the uplinks report.
            clock: monotonic seconds.
            environ: contains proxies.
        """
        self.uplinks: list[Uplink] = []
        self.reserves: list[LinkReserve] = []
        self._identity = identity
        self._source = source
        self._access = access
        self._board = board
        self._tasks = tasks
        self._clock = clock
        self._rng = rng
        self._environ = environ
        self._slices = Slices()  # their own: clients that request long responses must not make reports late
        self._serve_link: ServeLink | None = None  # None: this node cannot keep reverse links
        self._clients: dict[Uplink, httpx.AsyncClient] = {}  # one each: it goes with its parent
        self._proxies: dict[Uplink, str] = {}  # host names

    def start(self, config: NodeConfig, serve_link: ServeLink | None) -> None:
        """Register with all parents of a configuration.

        serve_link: makes the protocol that serves a connection which this node dialled.
        """
        self._serve_link = serve_link
        for parent in config.parents:
            self._add(parent, config)

    def apply(self, old: NodeConfig, new: NodeConfig) -> list[str]:
        """Leave the parents that are not in the new configuration, and register with the others. Returns what changed.

        new: with the settings that are in force.
        """
        removed = [parent for parent in old.parents if parent not in new.parents]
        added = [parent for parent in new.parents if parent not in old.parents]
        for parent in removed:
            self._remove(parent, new.settings.grace_s)
        for parent in added:
            self._add(parent, new)
        return [f"parent {parent} removed" for parent in removed] + [f"parent {parent} added" for parent in added]

    def propose_interval(self, interval_s: float) -> None:
        """Propose this interval between two reports to all parents, from the next registration on."""
        for uplink in self.uplinks:
            uplink.propose_interval(interval_s)

    def prefix_key(self) -> str | None:
        """With which fingerprints of prompts are taken above this node; "": with the fixed one; None: not known."""
        return next((uplink.prefix_key for uplink in self.uplinks if uplink.prefix_key is not None), None)

    def proxies(self) -> set[str]:
        """The host names of the proxies through which parents are dialled."""
        return set(self._proxies.values())

    def with_secret(self, secret: bytes, seq: int) -> Uplink | None:
        """The uplink to the parent that has this secret, if any; notes the number of its request there."""
        for uplink in self.uplinks:
            if uplink.believes(secret, seq):
                return uplink
        return None

    async def wait_until_draining_is_known(self) -> None:
        """Return when every parent knows that this node sends no requests any more."""
        await asyncio.gather(*(uplink.wait_until_draining_is_known() for uplink in self.uplinks))

    async def deregister(self) -> None:
        """End the reports, and leave all parents."""
        for task in [task for task in self._tasks if task.get_name().startswith("uplink")]:
            task.cancel()
        await asyncio.gather(*(uplink.deregister() for uplink in self.uplinks))

    def close_links(self) -> None:
        """Dial no more links; uvicorn closes those that are open."""
        for reserve in self.reserves:
            reserve.close()

    def sweep_links(self) -> None:
        """Call it twice a second: dial the links that are missing."""
        for reserve in self.reserves:
            reserve.sweep()

    async def close(self) -> None:
        """Close the connections for messages."""
        await _close(self._clients.values())

    # -- one parent ------------------------------------------------------------------------------------------------

    def _add(self, parent: str, config: NodeConfig) -> None:
        """Register with a parent, and keep links to it if this node dials them."""
        link, settings = config.link, config.settings
        access, clock, rng = self._access, self._clock, self._rng
        proxy = proxy_for(parent, config.proxy, self._environ, link)
        http = plain_client(access.resolver, access.tls.node, proxy=proxy.url if proxy is not None else None)
        uplink = Uplink(
            parent,
            self._identity,
            self._source,
            http,
            settings.report_interval_s,
            clock=clock,
            rng=rng,
            slices=self._slices,
            link=link,
            credentials=access.credentials,
            board=self._board,
        )
        self._clients[uplink] = http
        if proxy is not None:
            self._proxies[uplink] = proxy.host
        if link != "direct" and self._serve_link is not None:
            reserve = LinkReserve(
                uplink,
                self._identity,
                self._serve_link,
                settings.connect_timeout_s,
                tls=access.tls.node if parent.startswith("https:") else None,
                proxy=proxy,
                clock=clock,
                rng=rng,
                resolver=access.resolver,
            )
            uplink.listen(reserve)
            self.reserves.append(reserve)
        self.uplinks.append(uplink)
        self._tasks.keep(uplink.run, f"uplink to {parent}")

    def _remove(self, parent: str, grace_s: float) -> None:
        self._tasks.cancel(f"uplink to {parent}")
        for uplink in [uplink for uplink in self.uplinks if uplink.parent == parent]:
            for reserve in [reserve for reserve in self.reserves if reserve.uplink is uplink]:
                self.reserves.remove(reserve)
                reserve.close()
            self._tasks.spawn(self._leave(uplink, grace_s), f"deregistration from {parent}")

    async def _leave(self, uplink: Uplink, grace_s: float) -> None:
        """Deregister. Requests of that parent that still run are trusted until they have ended."""
        await uplink.deregister()
        await asyncio.sleep(grace_s)
        self.uplinks.remove(uplink)
        self._proxies.pop(uplink, None)
        await self._clients.pop(uplink).aclose()

    def __repr__(self) -> str:
        return f"<Parents {self.uplinks}>"


async def _close(clients: Iterable[httpx.AsyncClient]) -> None:
    for client in list(clients):
        await client.aclose()
