"""Ollama.

Source: Ollama docs, "OpenAI compatibility" and the API reference (docs.ollama.com/api): `GET /v1/models` lists what has
been pulled, under names with a tag (`llama3.2:latest`), and a request loads what is not in memory yet. `GET
/api/version` is how it is told from other servers. It has no metrics, and `GET /api/ps` says what is loaded, not what
runs: the queue is reported as 0, and our own leases are all that counts.

It takes `llama3.2` for `llama3.2:latest` too, but lists only the latter: `models: {llama3.2: "llama3.2:latest"}` gives
the short name. Models of Ollama's cloud are listed like local ones; `models` keeps them out.
"""

from __future__ import annotations

from typing import ClassVar

import httpx

from hierarchy.engines.adapters.reading import engine_status, get, openai_models
from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import NodeStatus


class OllamaAdapter:
    kind: ClassVar[str] = "ollama"

    async def read(self, http: httpx.AsyncClient, url: str, speed: float) -> NodeStatus:
        answer = (await get(http, url, "/api/version")).ok()
        page = answer.json()
        if not isinstance(page, dict) or not isinstance(page.get("version"), str):
            raise EngineUnreadable(f"{answer.url} tells no version: is this Ollama?")
        return engine_status(await openai_models(http, url), speed, queue_length=0)
