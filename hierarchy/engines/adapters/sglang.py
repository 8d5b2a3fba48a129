"""SGLang's server.

Source: SGLang docs, "Production Metrics" (docs.sglang.io, references/production_metrics), and its source,
python/sglang/srt/observability/metrics_collector.py: gauges `sglang:num_running_reqs` and `sglang:num_queue_reqs`, only
with `--enable-metrics`. Without it `GET /v1/loads?include=core` tells the same (srt/entrypoints/v1_loads.py: `{"loads":
[{"num_running_reqs", "num_waiting_reqs"}]}`, one entry a data-parallel rank). Older releases have neither.

`GET /health` generates one token when the engine is idle, and is answered between two steps when it is not, so a long
prompt holds it up: an engine with requests that is late is busy, an idle one that is late hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import ClassVar

import httpx

from hierarchy.engines.adapters.reading import Sample, engine_status, get, openai_models
from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import MAX_QUEUE, NodeStatus

RUNNING = "sglang:num_running_reqs"
WAITING = "sglang:num_queue_reqs"

#: of a probe's three seconds; the rest is for what the HTTP process answers by itself
HEALTH_TIMEOUT_S = 1.5
#: ranks that work on the same requests together; with `--enable-metrics-for-all-schedulers` each of them tells
SHARED_RANKS = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})


class SglangAdapter:
    kind: ClassVar[str] = "sglang"

    async def read(self, http: httpx.AsyncClient, url: str, speed: float) -> NodeStatus:
        names = await openai_models(http, url)
        queue_length = await _queue_length(http, url)
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                (await get(http, url, "/health")).ok()
        except (TimeoutError, httpx.TimeoutException):
            if not queue_length:
                late = f"{url.rstrip('/')}/health did not answer within {HEALTH_TIMEOUT_S:g} s"
                raise EngineUnreadable(f"{late}, though no request runs") from None
        return engine_status(names, speed, queue_length)


async def _queue_length(http: httpx.AsyncClient, url: str) -> int:
    if samples := (await get(http, url, "/metrics")).samples(RUNNING, WAITING):
        return _sum(samples)
    answer = await get(http, url, "/v1/loads?include=core")
    page = answer.json() if answer.status == httpx.codes.OK else None
    loads = page.get("loads") if isinstance(page, dict) else None
    ranks = [rank for rank in loads if isinstance(rank, dict)] if isinstance(loads, list) else []
    counts = [rank.get(field) for rank in ranks for field in ("num_running_reqs", "num_waiting_reqs")]
    return min(sum(n for n in counts if isinstance(n, int) and not isinstance(n, bool) and n > 0), MAX_QUEUE)


def _sum(samples: Iterable[Sample]) -> int:
    """Over data-parallel ranks. With priority scheduling the whole has `priority=""`, and its parts have theirs."""
    most: dict[object, int] = {}
    for sample in samples:
        if sample.labels.get("priority"):
            continue
        rank = frozenset(item for item in sample.labels.items() if item[0] not in SHARED_RANKS)
        key = sample.name, rank
        most[key] = max(most.get(key, 0), sample.value)
    return min(sum(most.values()), MAX_QUEUE)
