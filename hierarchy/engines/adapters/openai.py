"""Any server of OpenAI's API: only `GET /v1/models` is used.

Source: OpenAI API reference, "List models": `{"object": "list", "data": [{"id", "object", "created", "owned_by"}]}`.
The API does not report load: the queue is reported as 0, and only this node's own leases count.
"""

from __future__ import annotations

from typing import ClassVar

from hierarchy.engines.adapters.reading import EngineHttp, openai_model_names, status_of_engine
from hierarchy.wire.status import NodeStatus


class OpenAIAdapter:
    """An `Adapter` for `kind: openai`."""

    kind: ClassVar[str] = "openai"

    async def read(self, http: EngineHttp, speed: float) -> NodeStatus:
        """See `Adapter.read`."""
        return status_of_engine(await openai_model_names(http), speed, queue_length=0)
