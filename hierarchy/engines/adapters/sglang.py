"""SGLang's server.

Source: SGLang docs, "Production Metrics" (docs.sglang.io, references/production_metrics), and its source,
python/sglang/srt/observability/metrics_collector.py: gauges `sglang:num_running_reqs` and `sglang:num_queue_reqs`, only
with `--enable-metrics`. Without it `GET /v1/loads?include=core` has the same (srt/entrypoints/v1_loads.py: `{"loads":
[{"num_running_reqs", "num_waiting_reqs"}]}`, one entry for each data-parallel rank). Older releases have neither.

Counters `sglang:cached_tokens_total` (one sample for each `cache_source`, none before the first hit) and
`sglang:prompt_tokens_total`, which has the cached ones in it. The gauge `sglang:cache_hit_rate` is of the last batch
alone, so it is not read.

`GET /health` generates one token if the engine is idle. Otherwise it responds between two steps, so a long prompt
delays it: an engine with requests that responds late is busy; for an idle one the probe waits.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, ClassVar

import msgspec

from hierarchy.engines.adapters.reading import (
    EngineHttp,
    EngineResponse,
    Sample,
    get,
    openai_model_names,
    prompt_tokens,
    status_of_engine,
)
from hierarchy.runtime import awake
from hierarchy.wire.status import NodeStatus

RUNNING = "sglang:num_running_reqs"
WAITING = "sglang:num_queue_reqs"
CACHED = "sglang:cached_tokens_total"
PROMPTS = "sglang:prompt_tokens_total"

#: of an engine with requests. The rest of the 2.5 s after which a probe is late is for the other requests, to which the
#: HTTP process responds by itself
HEALTH_TIMEOUT_S = 1.5
#: labels of ranks that work on the same requests; with `--enable-metrics-for-all-schedulers` each rank reports them
SHARED_RANKS = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})


class SglangAdapter:
    """An `Adapter` for `kind: sglang`."""

    kind: ClassVar[str] = "sglang"

    async def read(self, http: EngineHttp, speed: float) -> NodeStatus:
        """See `Adapter.read`."""
        names = await openai_model_names(http)
        metrics = await get(http, "/metrics")
        queue_length, waiting = await _load(http, metrics)
        with contextlib.suppress(TimeoutError):
            async with awake.timeout(HEALTH_TIMEOUT_S if queue_length else math.inf):
                (await get(http, "/health")).require_ok()
        status = status_of_engine(names, speed, queue_length, waiting=waiting)
        if not metrics.has_metric(CACHED):
            return status
        tokens = prompt_tokens(metrics.counts(CACHED), metrics.counts(PROMPTS))
        return msgspec.structs.replace(status, prompt_tokens=tokens)


async def _load(http: EngineHttp, metrics: EngineResponse) -> tuple[int, int]:
    """Requests running and waiting, and those that wait; the latter is -1 if unknown."""
    if samples := metrics.samples(RUNNING, WAITING):
        return _total(samples), _total(sample for sample in samples if sample.name == WAITING)
    response = await get(http, "/v1/loads?include=core")
    page = response.json() if response.status == HTTPStatus.OK else None
    loads = page.get("loads") if isinstance(page, dict) else None
    ranks = [rank for rank in loads if isinstance(rank, dict)] if isinstance(loads, list) else []
    running, waiting = (_sum(ranks, field) for field in ("num_running_reqs", "num_waiting_reqs"))
    return running + waiting, waiting if ranks else -1


def _sum(ranks: Iterable[dict[str, Any]], field: str) -> int:
    counts = [rank.get(field) for rank in ranks]
    return sum(n for n in counts if isinstance(n, int) and not isinstance(n, bool) and n > 0)


def _total(samples: Iterable[Sample]) -> int:
    """The sum over data-parallel ranks. With priority scheduling, samples with `priority=""` are the totals."""
    highest: dict[object, int] = {}  # ranks that work on the same requests report the same, or less
    for sample in samples:
        if sample.labels.get("priority"):
            continue
        rank = frozenset(item for item in sample.labels.items() if item[0] not in SHARED_RANKS)
        key = sample.name, rank
        highest[key] = max(highest.get(key, 0), sample.value)
    return sum(highest.values())
