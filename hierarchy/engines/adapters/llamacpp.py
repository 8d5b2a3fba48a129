"""llama.cpp's server (`llama-server`, and `hierarchy engine local`, which runs the same server).

Source: llama.cpp, tools/server/README.md. `GET /health` is 503 while the model loads; `GET /metrics` has the gauges
`llamacpp:requests_processing` and `llamacpp:requests_deferred`, or is 501 without `--metrics`; `GET /slots` lists the
slots with `is_processing`, or is 501 with `--no-slots`; `GET /props` has `total_slots`. Of prompts,
`llamacpp:prompt_tokens_cached_total` counts the tokens that were in the cache and `llamacpp:prompt_tokens_total` the
others; releases before August 2026 have only the second one. Responses recorded
from xllamacpp 2026.10.11549 are in tests/engines/adapters/data.

With `--sleep-idle-seconds` the server puts its model away, and loads it again for the next request (README, "Sleeping
on Idle"). `GET /props` has `is_sleeping` then. `/health`, `/props`, `/v1/models` and `/metrics` let it sleep; `/slots`
wakes it up.

A server without a model is a router (README, "Using multiple models"): the entries of `GET /v1/models` have `status`:
`{"value": "loaded"}`, or `loading`, `unloaded`, `sleeping`, `downloading`. `GET /props` has `role: router`, and
`models_autoload: false` if a request does not load its model. `GET /metrics?model=NAME&autoload=false` is that of one
model's process (tools/server/server-models.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec

from hierarchy.engines.adapters.reading import (
    EngineHttp,
    EngineResponse,
    get,
    openai_models,
    prompt_tokens,
    status_of_engine,
    usable_model_names,
)
from hierarchy.runtime import awake
from hierarchy.wire.status import NodeStatus

RUNNING = "llamacpp:requests_processing"
WAITING = "llamacpp:requests_deferred"
CACHED = "llamacpp:prompt_tokens_cached_total"
READ = "llamacpp:prompt_tokens_total"  # in releases with `CACHED`: without those

#: The inference loop responds to /metrics and /slots between two batches, so a long prompt delays them for seconds.
#: Such an engine is busy, not dead: these requests get less time than a whole probe.
LOAD_TIMEOUT_S = 1.0
MAX_ASKED = 16  # models of a router whose queues are read; a router has 4 loaded, unless it is told otherwise


class LlamaCppAdapter:
    """An `Adapter` for `kind: llamacpp` and `kind: local`."""

    def __init__(self, kind: str = "llamacpp") -> None:
        self.kind = kind

    async def read(self, http: EngineHttp, speed: float) -> NodeStatus:
        """See `Adapter.read`. The queue of an engine that is too busy to report it is 1."""
        (await get(http, "/health")).require_ok()
        entries = await openai_models(http)
        props = (await get(http, "/props")).require_ok().json()
        if isinstance(props, dict) and props.get("role") == "router":
            return await _read_router(http, entries, speed, loads=props.get("models_autoload") is not False)
        names = usable_model_names(entry.get("id") for entry in entries)
        asleep = isinstance(props, dict) and props.get("is_sleeping") is True
        queue_length, tokens = (0, None) if asleep else await _queue_in_time(http)
        status = status_of_engine(names, speed, queue_length, slots=_total_slots(props), cold=names if asleep else ())
        return status if tokens is None else msgspec.structs.replace(status, prompt_tokens={"": tokens})


async def _read_router(http: EngineHttp, entries: list[dict[str, Any]], speed: float, *, loads: bool) -> NodeStatus:
    """A server that loads models when requests come. loads: it does that by itself."""
    states = {name: _state(entry) for entry in entries for name in usable_model_names([entry.get("id")])}
    servable = ("loaded", "sleeping", "loading", "unloaded") if loads else ("loaded", "sleeping")
    names = [name for name, state in states.items() if state in servable]
    loaded = [name for name in names if states[name] == "loaded"]
    queues, slots, tokens = dict.fromkeys(names, 0), dict[str, int](), dict[str, tuple[float, float]]()
    queues |= {name: 1 for name in names if states[name] == "loading"}  # at least the request that it loads it for
    for name in loaded[:MAX_ASKED]:
        query = f"?model={quote(name, safe='')}&autoload=false"
        queues[name], counts = await _queue_in_time(http, query)
        if counts is not None:
            tokens[name] = counts
        response = await get(http, f"/props{query}")
        slots[name] = _total_slots(response.json()) if response.status == HTTPStatus.OK else 0
    cold = set(names) - set(loaded)
    status = status_of_engine(names, speed, sum(queues.values()), queues=queues, cold=cold)
    models = [msgspec.structs.replace(model, slots=slots.get(model.name, 0)) for model in status.models]
    return msgspec.structs.replace(status, models=tuple(models), prompt_tokens=tokens)


def _state(entry: Mapping[str, Any]) -> object:
    status = entry.get("status")
    return status.get("value") if isinstance(status, dict) else None


async def _queue_in_time(http: EngineHttp, query: str = "") -> tuple[int, tuple[float, float] | None]:
    """The queue, and the prompt tokens from the cache and all of them, if they are known."""
    try:
        async with awake.timeout(LOAD_TIMEOUT_S):
            metrics = await get(http, f"/metrics{query}")
            return await _queue_length(http, metrics, query), _prompt_tokens(metrics)
    except TimeoutError:
        return 1, None  # at least the request that keeps it from responding


def _prompt_tokens(metrics: EngineResponse) -> tuple[float, float] | None:
    if not metrics.has_metric(CACHED):
        return None
    cached, read = metrics.counts(CACHED), metrics.counts(READ)
    return prompt_tokens(cached, {model: cached.get(model, 0.0) + count for model, count in read.items()}).get("")


async def _queue_length(http: EngineHttp, metrics: EngineResponse, query: str) -> int:
    if samples := metrics.samples(RUNNING, WAITING):
        return sum(sample.value for sample in samples)
    response = await get(http, f"/slots{query}")  # without --metrics only running requests are known, not waiting ones
    slots = response.json() if response.status == HTTPStatus.OK else []
    return sum(bool(slot.get("is_processing")) for slot in slots if isinstance(slot, dict))


def _total_slots(props: Any) -> int:
    total = props.get("total_slots") if isinstance(props, dict) else None
    return total if isinstance(total, int) and 0 < total < 2**31 else 0
