"""llama.cpp's server (`llama-server`, and `hierarchy engine local`, which runs the same server).

Source: llama.cpp, tools/server/README.md. `GET /health` is 503 while the model loads; `GET /metrics` has the gauges
`llamacpp:requests_processing` and `llamacpp:requests_deferred`, or is 501 without `--metrics`; `GET /slots` lists the
slots with `is_processing`, or is 501 with `--no-slots`; `GET /props` has `total_slots`. Responses recorded
from xllamacpp 2026.10.11549 are in tests/engines/adapters/data.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from hierarchy.engines.adapters.reading import EngineHttp, get, openai_model_names, status_of_engine
from hierarchy.runtime import awake
from hierarchy.wire.status import NodeStatus

RUNNING = "llamacpp:requests_processing"
WAITING = "llamacpp:requests_deferred"

#: The inference loop responds to /metrics and /slots between two batches, so a long prompt delays them for seconds.
#: Such an engine is busy, not dead: these requests get less time than a whole probe.
LOAD_TIMEOUT_S = 1.0


class LlamaCppAdapter:
    """An `Adapter` for `kind: llamacpp` and `kind: local`."""

    def __init__(self, kind: str = "llamacpp") -> None:
        self.kind = kind

    async def read(self, http: EngineHttp, speed: float) -> NodeStatus:
        """See `Adapter.read`. The queue of an engine that is too busy to report it is 1."""
        (await get(http, "/health")).require_ok()
        names = await openai_model_names(http)
        slots = _total_slots((await get(http, "/props")).require_ok().json())
        try:
            async with awake.timeout(LOAD_TIMEOUT_S):
                queue_length = await _queue_length(http)
        except TimeoutError:
            queue_length = 1  # at least the request that keeps it from responding
        return status_of_engine(names, speed, queue_length, slots=slots)


async def _queue_length(http: EngineHttp) -> int:
    if samples := (await get(http, "/metrics")).samples(RUNNING, WAITING):
        return sum(sample.value for sample in samples)
    response = await get(http, "/slots")  # without --metrics only running requests are known, not waiting ones
    slots = response.json() if response.status == HTTPStatus.OK else []
    return sum(bool(slot.get("is_processing")) for slot in slots if isinstance(slot, dict))


def _total_slots(props: Any) -> int:
    total = props.get("total_slots") if isinstance(props, dict) else None
    return total if isinstance(total, int) and 0 < total < 2**31 else 0
