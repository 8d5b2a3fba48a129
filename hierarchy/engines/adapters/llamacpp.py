"""llama.cpp's server (`llama-server`, and `hierarchy engine local`, which runs the same server).

Source: llama.cpp, tools/server/README.md. `GET /health` is 503 while the model loads; `GET /metrics` has the gauges
`llamacpp:requests_processing` and `llamacpp:requests_deferred`, or is 501 without `--metrics`; `GET /slots` lists the
slots with `is_processing`, or is 501 with `--no-slots`; `GET /props` has `total_slots`. Answers recorded
from xllamacpp 2026.10.11549 are in tests/engines/adapters/data.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from hierarchy.engines.adapters.reading import engine_status, get, openai_models
from hierarchy.wire.status import NodeStatus

PROCESSING = "llamacpp:requests_processing"
DEFERRED = "llamacpp:requests_deferred"

#: /metrics and /slots are answered by the inference loop, between two batches: a long prompt holds them up for
#: seconds. That is a busy engine, not a dead one, so they get less time than a probe has in all.
LOAD_TIMEOUT_S = 1.0


class LlamaCppAdapter:
    def __init__(self, kind: str = "llamacpp") -> None:
        self.kind = kind

    async def read(self, http: httpx.AsyncClient, url: str, speed: float) -> NodeStatus:
        (await get(http, url, "/health")).ok()
        names = await openai_models(http, url)
        slots = _total_slots((await get(http, url, "/props")).ok().json())
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                queue_length = await _queue_length(http, url)
        except (TimeoutError, httpx.TimeoutException):
            queue_length = 1  # at least the one that keeps it from answering
        return engine_status(names, speed, queue_length, slots=slots)


async def _queue_length(http: httpx.AsyncClient, url: str) -> int:
    if samples := (await get(http, url, "/metrics")).samples(PROCESSING, DEFERRED):
        return sum(sample.value for sample in samples)
    answer = await get(http, url, "/slots")  # without --metrics: what is running can be seen, what waits cannot
    slots = answer.json() if answer.status == httpx.codes.OK else []
    return sum(bool(slot.get("is_processing")) for slot in slots if isinstance(slot, dict))


def _total_slots(props: Any) -> int:
    total = props.get("total_slots") if isinstance(props, dict) else None
    return total if isinstance(total, int) and 0 < total < 2**31 else 0
