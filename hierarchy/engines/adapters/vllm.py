"""vLLM's OpenAI server.

Source: vLLM docs, "Production Metrics" (docs.vllm.ai, usage/metrics): gauges `vllm:num_requests_running` and
`vllm:num_requests_waiting`, labels `model_name` and, since V1, `engine` (one per data-parallel rank). `GET /health` is
200 while the engine process lives, 503 once it died; `/v1/models` goes on answering then, so both are asked.
`model_name` is the first served name: aliases and LoRA adapters are counted under it, and have the whole queue here.
LoRA adapters stand in `/v1/models` beside their base model (docs, "LoRA Adapters"), loaded at the start or at run time,
and are models like any other here.
"""

from __future__ import annotations

from collections import Counter

import httpx

from hierarchy.engines.adapters.reading import engine_status, get, openai_models
from hierarchy.wire.status import Api, NodeStatus

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"


class VllmAdapter:
    def __init__(self, kind: str = "vllm", apis: tuple[Api, ...] = ("openai",)) -> None:
        self.kind = kind
        self._apis = apis

    async def read(self, http: httpx.AsyncClient, url: str, speed: float) -> NodeStatus:
        (await get(http, url, "/health")).ok()
        names = await openai_models(http, url)
        queues: Counter[str] = Counter()
        for sample in (await get(http, url, "/metrics")).samples(RUNNING, WAITING):
            queues[sample.labels.get("model_name", "")] += sample.value
        return engine_status(names, speed, queues.total(), queues=queues, apis=self._apis)
