"""Probing engines, which do not report by themselves.

A `Prober` asks one engine for ever and tells its owner what it read or why it could not. It holds no opinion on what
follows from that: the registry does.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

import httpx

from hierarchy.config.models import EngineConfig
from hierarchy.engines import Adapter
from hierarchy.engines.adapters.reading import serve_as
from hierarchy.errors import HierarchyError
from hierarchy.wire.status import NodeStatus

# For all of one probe's requests together: with an interval of 1 s, nobody waits over 5 s for an engine that hangs.
PROBE_TIMEOUT_S = 2.5
RETRY_S = 0.5  # after the first failure; doubled from there
MAX_RETRY_S = 5.0  # also with a longer interval: whoever started an engine waits for it to be noticed
JITTER = 0.2  # so that the probes of a site's engines spread out

logger = logging.getLogger("hierarchy.health")


class Prober:
    """Asks one engine, at `engine.url`, through the adapter of its kind.

    `on_reading` gets each status, `on_failure` one line why there is none; a HierarchyError that `on_reading` raises
    (a status that the registry refuses) is a failure too. The log gets a line when the engine goes up or down or
    changes its models, not one a probe.
    """

    def __init__(
        self,
        engine: EngineConfig,
        adapter: Adapter,
        http: httpx.AsyncClient,
        on_reading: Callable[[NodeStatus], None],
        on_failure: Callable[[str], None],
        interval_s: float,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        if engine.url is None:
            raise ValueError(f"engine {engine.name} has no url to probe")
        self._engine = engine
        self._url = engine.url
        self._adapter = adapter
        self._http = http
        self._on_reading = on_reading
        self._on_failure = on_failure
        self._interval_s = interval_s
        self._sleep = sleep
        self._uniform = uniform
        self._models: list[str] | None = None  # None: down, or not asked yet
        self._missing: list[str] = []  # what `models` names and it does not list
        self._failures = 0  # in a row

    def __repr__(self) -> str:
        state = "down" if self._failures else "unknown" if self._models is None else "up"
        return f"<Prober {self._engine.name} {state} failures={self._failures}>"

    def set_interval(self, interval_s: float) -> None:
        """Use another interval between probes from now on."""
        self._interval_s = interval_s

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            await self.probe_once()
            await self._sleep(self.delay_s() * self._uniform(1 - JITTER, 1 + JITTER))

    async def probe_once(self) -> NodeStatus | None:
        """One probe, told to the owner; returns the status, or None if there is none."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                listed = await self._adapter.read(self._http, self._url, self._engine.speed)
            status, missing = serve_as(listed, self._engine.models)
            self._on_reading(status)
        except TimeoutError:
            self._failed(f"{self._url} did not answer within {PROBE_TIMEOUT_S:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._failed(f"{self._url}: {str(error) or type(error).__name__}")
        except HierarchyError as error:
            self._failed(str(error))
        else:
            self._succeeded(status)
            self._complain(missing, listed)
            return status
        return None

    def delay_s(self) -> float:
        """Seconds until the next probe, before jitter."""
        if not self._failures:
            return self._interval_s
        # The exponent is bounded since 2.0**1024 overflows, which a night without the engine would reach.
        return min(RETRY_S * 2.0 ** min(self._failures - 1, 10), self._interval_s, MAX_RETRY_S)

    def _succeeded(self, status: NodeStatus) -> None:
        name, models = self._engine.name, status.model_names
        served = ", ".join(models) or "no model yet"
        if self._models is None:
            logger.info("engine %s is up at %s and serves %s", name, self._url, served)
        elif models != self._models:
            logger.info("engine %s changed its models: %s, was %s", name, served, ", ".join(self._models) or "none")
        self._models, self._failures = models, 0

    def _complain(self, missing: list[str], listed: NodeStatus) -> None:
        if missing and missing != self._missing:
            lists = ", ".join(listed.model_names) or "no model"
            logger.warning(
                "engine %s lists %s, but not %s of its `models`", self._engine.name, lists, ", ".join(missing)
            )
        self._missing = missing

    def _failed(self, reason: str) -> None:
        if not self._failures:
            was = "is not up yet" if self._models is None else "went down"
            logger.warning("engine %s %s (%s); asking it again until it is", self._engine.name, was, reason)
        self._models = None
        self._failures += 1
        self._on_failure(reason)
