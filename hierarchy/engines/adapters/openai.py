"""Any server of OpenAI's API: `GET /v1/models` and nothing else.

Source: OpenAI API reference, "List models": `{"object": "list", "data": [{"id", "object", "created", "owned_by"}]}`.
The API has no word for load, so the queue is reported as 0 and our own leases are all that counts.
"""

from __future__ import annotations

from typing import ClassVar

import httpx

from hierarchy.engines.adapters.reading import engine_status, openai_models
from hierarchy.wire.status import NodeStatus


class OpenAIAdapter:
    kind: ClassVar[str] = "openai"

    async def read(self, http: httpx.AsyncClient, url: str, speed: float) -> NodeStatus:
        return engine_status(await openai_models(http, url), speed, queue_length=0)
