"""Ollama.

Source: Ollama docs, "OpenAI compatibility" and the API reference (docs.ollama.com/api): `GET /v1/models` lists the
models that were pulled, under names with a tag (`llama3.2:latest`), and a request loads one that is not in memory.
`GET /api/version` identifies Ollama. It has no metrics, and `GET /api/ps` lists loaded models (`{"models": [{"name",
"model", ...}]}`, server/routes.go `PsHandler`), not running requests: the queue is reported as 0, and only this node's
own leases count.

Ollama accepts `llama3.2` for `llama3.2:latest` too, but lists only the latter: `models: {llama3.2: "llama3.2:latest"}`
adds the short name. Models of Ollama's cloud are listed like local ones, and are never loaded here: `GET /api/tags` has
`remote_host` for them (api/types.go `ListModelResponse`). It is read only while a model is not loaded.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, ClassVar

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
        names = await openai_model_names(http)
        return status_of_engine(names, speed, queue_length=0, cold=await _cold(http, names))


async def _cold(http: EngineHttp, names: list[str]) -> set[str]:
    """The models that a request would load. A release without `/api/ps` says nothing of that."""
    loaded = await _entries(http, "/api/ps")
    if loaded is None:
        return set()
    cold = set(names) - {name for entry in loaded for name in (entry.get("model"), entry.get("name"))}
    if cold:
        tags = await _entries(http, "/api/tags") or []
        cold -= {entry.get("model") or entry.get("name") for entry in tags if entry.get("remote_host")}
    return cold


async def _entries(http: EngineHttp, path: str) -> list[dict[str, Any]] | None:
    """The models of a page; None if there is no such page."""
    response = await get(http, path)
    page = response.json() if response.status == HTTPStatus.OK else None
    models = page.get("models") if isinstance(page, dict) else None
    if models is None and isinstance(page, dict) and "models" in page:
        return []  # Go writes an empty list as null
    return [entry for entry in models if isinstance(entry, dict)] if isinstance(models, list) else None
