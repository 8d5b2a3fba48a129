"""Probing engines, which do not report by themselves.

A `Prober` reads one engine again and again, and passes each status or failure to its owner. The registry decides what
follows from a failure.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

import httpx

from hierarchy.config.models import EngineConfig
from hierarchy.engines.adapters.reading import Adapter, select_models
from hierarchy.errors import HierarchyError, describe
from hierarchy.wire.status import NodeStatus

# For all requests of one probe together: with an interval of 1 s, an engine that hangs is noticed within 5 s.
PROBE_TIMEOUT_S = 2.5
RETRY_S = 0.5  # wait after the first failure; doubled after each further one
MAX_RETRY_S = 5.0  # even if the interval is longer: an operator who starts an engine waits for it to be found
JITTER = 0.2  # part of the wait that is random, so that the probes of a site's engines spread out

log = logging.getLogger("hierarchy.health")


class Prober:
    """Reads one engine, at `engine.url`, through the adapter of its kind.

    It logs when the engine goes up or down or changes its models, not each probe.
    """

    def __init__(
        self,
        engine: EngineConfig,
        adapter: Adapter,
        http: httpx.AsyncClient,
        on_status: Callable[[NodeStatus], None],
        on_failure: Callable[[str], None],
        interval_s: float,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """
        Args:
            on_status: called with each status. If it raises a HierarchyError, because the registry refuses the status,
                the probe has failed.
            on_failure: called with the reason, one line, of each failure.
            interval_s: between two probes of an engine that is up.
            uniform: returns a random number between two limits.
        """
        if engine.url is None:
            raise ValueError(f"engine {engine.name} has no url to probe")
        self._engine = engine
        self._url = engine.url
        self._adapter = adapter
        self._http = http
        self._on_status = on_status
        self._on_failure = on_failure
        self._interval_s = interval_s
        self._sleep = sleep
        self._uniform = uniform
        self._models: list[str] | None = None  # None: down, or not probed yet
        self._missing: list[str] = []  # models of the configuration that the engine does not list
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
        """Probe once and pass the result to the owner. Returns the status; None if the probe failed."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                listed = await self._adapter.read(self._http, self._url, self._engine.speed)
            status, missing = select_models(listed, self._engine.models)
            self._on_status(status)
        except TimeoutError:
            self._failed(f"{self._url} did not respond within {PROBE_TIMEOUT_S:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._failed(f"{self._url}: {describe(error)}")
        except HierarchyError as error:
            self._failed(str(error))
        else:
            self._succeeded(status)
            self._log_missing(missing, listed)
            return status
        return None

    def delay_s(self) -> float:
        """Seconds until the next probe, before jitter."""
        if not self._failures:
            return self._interval_s
        # The exponent is limited because 2.0**1024 overflows, which a night without the engine would reach.
        return min(RETRY_S * 2.0 ** min(self._failures - 1, 10), self._interval_s, MAX_RETRY_S)

    def _succeeded(self, status: NodeStatus) -> None:
        name, models = self._engine.name, status.model_names
        served = ", ".join(models) or "no model yet"
        if self._models is None:
            log.info("engine %s is up at %s and serves %s", name, self._url, served)
        elif models != self._models:
            log.info("engine %s changed its models: %s, was %s", name, served, ", ".join(self._models) or "none")
        self._models, self._failures = models, 0

    def _log_missing(self, missing: list[str], listed: NodeStatus) -> None:
        if missing and missing != self._missing:
            lists = ", ".join(listed.model_names) or "no model"
            log.warning("engine %s lists %s, but not %s of its `models`", self._engine.name, lists, ", ".join(missing))
        self._missing = missing

    def _failed(self, reason: str) -> None:
        if not self._failures:
            change = "is not up yet" if self._models is None else "went down"
            log.warning("engine %s %s (%s); probing it until it is up", self._engine.name, change, reason)
        self._models = None
        self._failures += 1
        self._on_failure(reason)
