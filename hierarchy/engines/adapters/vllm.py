"""vLLM's OpenAI server.

Source: vLLM docs, "Production Metrics" (docs.vllm.ai, usage/metrics): gauges `vllm:num_requests_running` and
`vllm:num_requests_waiting`, labels `model_name` and, since V1, `engine` (one per data-parallel rank). `GET /health` is
200 while the engine process lives, and 503 after it died; `/v1/models` still responds then, so both are requested.
`model_name` is the first served name: requests for aliases and LoRA adapters are counted under it, so these get the
whole queue. LoRA adapters are listed in `/v1/models` beside their base model (docs, "LoRA Adapters"), whether loaded at
the start or later, and are models like any other here.
"""

from __future__ import annotations

from collections import Counter

import httpx

from hierarchy.engines.adapters.reading import get, openai_model_names, status_of_engine
from hierarchy.wire.status import Api, NodeStatus

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"


class VllmAdapter:
    """An `Adapter` for `kind: vllm`, and for engines that imitate it."""

    def __init__(self, kind: str = "vllm", apis: tuple[Api, ...] = ("openai",)) -> None:
        self.kind = kind
        self._apis = apis

    async def read(self, http: httpx.AsyncClient, url: str, speed: float) -> NodeStatus:
        """See `Adapter.read`."""
        (await get(http, url, "/health")).require_ok()
        names = await openai_model_names(http, url)
        queues: Counter[str] = Counter()
        for sample in (await get(http, url, "/metrics")).samples(RUNNING, WAITING):
            queues[sample.labels.get("model_name", "")] += sample.value
        return status_of_engine(names, speed, queues.total(), queues=queues, apis=self._apis)
