"""vLLM's OpenAI server.

Source: vLLM docs, "Production Metrics" (docs.vllm.ai, usage/metrics): gauges `vllm:num_requests_running` and
`vllm:num_requests_waiting`, labels `model_name` and, since V1, `engine` (one per data-parallel rank). `GET /health` is
200 while the engine process lives, and 503 after it died; `/v1/models` still responds then, so both are requested.
`model_name` is the first served name: requests for aliases and LoRA adapters are counted under it, so these get the
whole queue. LoRA adapters are listed in `/v1/models` beside their base model (docs, "LoRA Adapters"), whether loaded at
the start or later, and are models like any other here.

Counters `vllm:prefix_cache_hits` and `vllm:prefix_cache_queries`, in tokens, with `_total` behind their names as
prometheus_client writes them (source, v1/metrics/loggers.py); before 0.9 they began with `vllm:gpu_prefix_cache_`.

A server that was put to sleep (docs, "Sleep Mode") answers all of these as before, but holds requests until it is woken
up. Its gauge `vllm:engine_sleep_state` has a sample with `sleep_state="awake"`, 0 while it sleeps, and one with
`discard_all`, 1 at level 2 (source, v1/metrics/loggers.py). `GET /is_sleeping` and `POST /wake_up` exist in development
mode only (source, entrypoints/serve/sleep/api_router.py: `VLLM_SERVER_DEV_MODE`). Older releases have none of these.
At level 2 the weights are gone, and to wake it up would not bring them back.
"""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus

import msgspec

from hierarchy.engines.adapters.reading import (
    EngineHttp,
    EngineResponse,
    get,
    openai_model_names,
    prompt_tokens,
    status_of_engine,
)
from hierarchy.wire.status import Api, NodeStatus

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
SLEEP = "vllm:engine_sleep_state"
#: (hits, queries), the newest names first
CACHE = (
    ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"),
    ("vllm:gpu_prefix_cache_hits_total", "vllm:gpu_prefix_cache_queries_total"),
)


class VllmAdapter:
    """An `Adapter` for `kind: vllm`, and for engines that imitate it."""

    def __init__(self, kind: str = "vllm", apis: tuple[Api, ...] = ("openai",)) -> None:
        self.kind = kind
        self._apis = apis

    async def read(self, http: EngineHttp, speed: float) -> NodeStatus:
        """See `Adapter.read`."""
        (await get(http, "/health")).require_ok()
        names = await openai_model_names(http)
        queues: Counter[str] = Counter()
        asleep = discarded = False
        waiting = -1
        metrics = await get(http, "/metrics")
        for sample in metrics.samples(RUNNING, WAITING, SLEEP):
            if sample.name != SLEEP:
                queues[sample.labels.get("model_name", "")] += sample.value
                if sample.name == WAITING:
                    waiting = max(waiting, 0) + sample.value
            elif sample.labels.get("sleep_state") == "awake":
                asleep |= not sample.value
            elif sample.labels.get("sleep_state") == "discard_all":
                discarded |= bool(sample.value)
        wakes = asleep and not discarded and await _can_wake(http)
        cold = names if wakes else ()
        status = status_of_engine(
            names, speed, queues.total(), queues=queues, cold=cold, waiting=waiting, apis=self._apis
        )
        return msgspec.structs.replace(status, asleep=asleep, wakes=wakes, prompt_tokens=_prompt_tokens(metrics))


async def _can_wake(http: EngineHttp) -> bool:
    """Does an engine that sleeps have the paths that wake it up?"""
    response = await get(http, "/is_sleeping")
    page = response.json() if response.status == HTTPStatus.OK else None
    return isinstance(page, dict) and page.get("is_sleeping") is True


def _prompt_tokens(metrics: EngineResponse) -> dict[str, tuple[float, float]]:
    for hits, queries in CACHE:
        if metrics.has_metric(queries):
            return prompt_tokens(metrics.counts(hits), metrics.counts(queries))
    return {}
