"""The exchange of shared records with the other instances of this node: `POST /exchange_records`.

Children carry the same records (`gossip`); this is quicker, and works where the instances have no common child. Each
side sends what the other does not have. It begins again within a fraction of a second when a record is new, and
from time to time in any case, since the other instance may be new.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import httpx
import msgspec

from hierarchy.errors import InvalidToken, NotJson, describe
from hierarchy.runtime import safe_json
from hierarchy.runtime.fetch import fetch
from hierarchy.security.record_keeper import Peer, RecordKeeper

PATH = "/exchange_records"
TICK_S = 0.2  # how often new records are looked for
INTERVAL_S = 10.0  # between two exchanges without new records
RETRY_S = 1.0  # after a failure
JITTER = 0.2
TIMEOUT_S = 2.0
log = logging.getLogger("hierarchy.uplink")


class RecordPage(msgspec.Struct, frozen=True):
    """`POST /exchange_records`, and its response: one signed page (`hierarchy.security.exchange_page`)."""

    page: str


@dataclass
class _Other:
    url: str
    peer: Peer = field(default_factory=Peer)
    problem: str = ""  # why the last exchange failed
    was_asked: bool = False


class RecordExchange:
    """Exchanges records with the instances at these URLs."""

    def __init__(
        self,
        records: RecordKeeper,
        urls: Sequence[str],
        http: httpx.AsyncClient,
        rng: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._records = records
        self._others = [_Other(url) for url in urls]
        self._http = http
        self._rng = rng
        self._sleep = sleep

    async def run(self) -> None:
        """Exchange records until cancelled."""
        async with asyncio.TaskGroup() as group:
            for other in self._others:
                group.create_task(self._run(other))

    async def _run(self, other: _Other) -> None:
        while True:
            more = await self._exchange(other)
            if not other.was_asked:
                other.was_asked = True
                if all(one.was_asked for one in self._others):
                    self._records.peers_were_asked()
            if not more:
                await self._wait(other)

    async def _wait(self, other: _Other) -> None:
        """Wait until there is a new record, or it is time anyway."""
        interval_s = RETRY_S if other.problem else INTERVAL_S
        ticks = max(1, round(interval_s * self._rng.uniform(1 - JITTER, 1 + JITTER) / TICK_S))
        for _ in range(ticks):
            await self._sleep(TICK_S)
            if self._records.revision != other.peer.sent and not other.problem:
                return

    async def _exchange(self, other: _Other) -> bool:
        """One request. Returns whether there is more to exchange at once."""
        page, last = self._records.request(other.peer)
        try:
            content = msgspec.json.encode(RecordPage(page))
            response = await fetch(self._http, "POST", other.url + PATH, content=content, timeout_s=TIMEOUT_S)
            if not response.is_ok:
                raise InvalidToken(f"it answered {response.status}")
            received = safe_json.decode(response.body, RecordPage)
            more = self._records.received(other.peer, last, received.page)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, NotJson, InvalidToken) as error:
            self._note_problem(other, describe(error))
            return False
        self._note_problem(other, "")
        return more

    def _note_problem(self, other: _Other, problem: str) -> None:
        """Log each reason once, and that it is over."""
        if problem and problem != other.problem:
            log.warning("cannot exchange records with %s: %s; retrying", other.url, problem)
        elif other.problem and not problem:
            log.info("exchanges records with %s again", other.url)
        other.problem = problem
