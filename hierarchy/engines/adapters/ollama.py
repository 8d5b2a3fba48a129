"""Ollama.

Source: Ollama docs, "OpenAI compatibility" and the API reference (docs.ollama.com/api): `GET /v1/models` lists the
models that were pulled, under names with a tag (`llama3.2:latest`), and a request loads one that is not in memory.
`GET /api/version` identifies Ollama. It has no metrics, and `GET /api/ps` lists loaded models, not running requests:
the queue is reported as 0, and only this node's own leases count.

Ollama accepts `llama3.2` for `llama3.2:latest` too, but lists only the latter: `models: {llama3.2: "llama3.2:latest"}`
adds the short name. Models of Ollama's cloud are listed like local ones; `models` leaves them out.
"""

from __future__ import annotations

from typing import ClassVar

from hierarchy.engines.adapters.reading import EngineHttp, get, openai_model_names, status_of_engine
from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import NodeStatus


class OllamaAdapter:
    """An `Adapter` for `kind: ollama`."""

    kind: ClassVar[str] = "ollama"

    async def read(self, http: EngineHttp, speed: float) -> NodeStatus:
        """See `Adapter.read`."""
        response = (await get(http, "/api/version")).require_ok()
        page = response.json()
        if not isinstance(page, dict) or not isinstance(page.get("version"), str):
            raise EngineUnreadable(f"{response.url} has no version: is this Ollama?")
        return status_of_engine(await openai_model_names(http), speed, queue_length=0)
