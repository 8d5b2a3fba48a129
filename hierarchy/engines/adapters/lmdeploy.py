"""LMDeploy's api_server.

Source: LMDeploy, lmdeploy/metrics/loggers.py: gauges `lmdeploy:num_requests_running` and
`lmdeploy:num_requests_waiting` (in the engine), and `lmdeploy:num_api_requests_waiting` (before it, for a free request
handle), labels `model_name` and `engine`, one for each data-parallel rank. `lmdeploy:num_api_requests_routed` counts
again what runs and waits in the engine. Current releases have them unless started with
`--disable-metrics`, older ones with `--enable-metrics`.
`GET /health` is 200 while it lives, `GET /v1/models` has the model and its adapters.
"""

from __future__ import annotations

from typing import ClassVar

import httpx

from hierarchy.engines.adapters.reading import engine_status, get, openai_models
from hierarchy.wire.status import MAX_QUEUE, NodeStatus

COUNTED = ("lmdeploy:num_requests_running", "lmdeploy:num_requests_waiting", "lmdeploy:num_api_requests_waiting")


class LmdeployAdapter:
    kind: ClassVar[str] = "lmdeploy"

    async def read(self, http: httpx.AsyncClient, url: str, speed: float) -> NodeStatus:
        (await get(http, url, "/health")).ok()
        names = await openai_models(http, url)
        samples = (await get(http, url, "/metrics")).samples(*COUNTED)
        return engine_status(names, speed, min(sum(sample.value for sample in samples), MAX_QUEUE))
