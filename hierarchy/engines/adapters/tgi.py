"""Hugging Face's text-generation-inference.

Source: TGI docs, "Metrics" (huggingface.co/docs/text-generation-inference, reference/metrics): gauges
`tgi_batch_current_size` and `tgi_queue_size`, without labels, since one server has one model. Its router
(router/src/server.rs) answers `GET /v1/models` with that model's id, and `GET /health` with 503 without shards.
"""

from __future__ import annotations

from typing import ClassVar

from hierarchy.engines.adapters.reading import EngineHttp, get, load_of, openai_model_names, status_of_engine
from hierarchy.wire.status import NodeStatus

RUNNING = "tgi_batch_current_size"
WAITING = "tgi_queue_size"


class TgiAdapter:
    """An `Adapter` for `kind: tgi`."""

    kind: ClassVar[str] = "tgi"

    async def read(self, http: EngineHttp, speed: float) -> NodeStatus:
        """See `Adapter.read`."""
        (await get(http, "/health")).require_ok()
        names = await openai_model_names(http)
        samples = (await get(http, "/metrics")).samples(RUNNING, WAITING)
        queue_length, waiting = load_of(samples, WAITING)
        return status_of_engine(names, speed, queue_length, waiting=waiting)
