"""The paths by which a simulated engine looks like one that loads its models when requests come.

Source: for the router llama.cpp, tools/server/README.md ("Using multiple models") and server-models.cpp; for Ollama its
docs/api.md and server/routes.go.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from hierarchy.engines.simulated.engine import Engine


def routes(engine: Engine) -> list[BaseRoute]:
    """Those of the engine's role; they come before all others."""
    if engine.options.role == "router":
        return Router(engine).routes()
    return Ollama(engine).routes() if engine.options.role == "ollama" else []


class Router:
    """llama-server without a model of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[BaseRoute]:
        """The paths."""
        return [Route("/props", self.props), Route("/metrics", self.metrics), Route("/v1/models", self.models)]

    async def models(self, request: Request) -> Response:
        """Each model with its state."""
        return JSONResponse({"object": "list", "data": [self._entry(name) for name in self._engine.models]})

    def _entry(self, name: str) -> dict[str, Any]:
        status = {"value": self._engine.memory.state(name), "args": ["llama-server"]}
        return {"id": name, "aliases": [], "object": "model", "owned_by": "llamacpp", "created": 0, "status": status}

    async def props(self, request: Request) -> Response:
        """Of the router, or of one model's process."""
        if "model" not in request.query_params:
            most = self._engine.memory.most
            return JSONResponse({"role": "router", "max_instances": int(most), "models_autoload": True})
        refusal = self._refusal(request)
        return refusal or JSONResponse({"total_slots": self._engine.slots.capacity, "is_sleeping": False})

    async def metrics(self, request: Request) -> Response:
        """Of one model's process."""
        refusal, model = self._refusal(request), request.query_params.get("model", "")
        slots = self._engine.slots
        return refusal or PlainTextResponse(
            f"llamacpp:requests_processing {slots.running[model]}\nllamacpp:requests_deferred {slots.waiting[model]}\n"
        )

    def _refusal(self, request: Request) -> Response | None:
        """Unless the model is loaded; a simulated router loads none for a GET."""
        model = request.query_params.get("model", "")
        if self._engine.memory.state(model) == "loaded":
            return None
        message = "model is not loaded" if model else "model name is missing from the request"
        return JSONResponse({"error": {"code": 400, "message": message, "type": "invalid_request_error"}}, 400)


class Ollama:
    """Ollama's own API."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[BaseRoute]:
        """The paths."""
        return [Route("/api/version", self.version), Route("/api/ps", self.ps), Route("/api/tags", self.tags)]

    async def version(self, request: Request) -> Response:
        """By which Ollama is recognised."""
        return JSONResponse({"version": "0.0.0-simulated"})

    async def ps(self, request: Request) -> Response:
        """The models in memory."""
        return JSONResponse({"models": [{"name": name, "model": name} for name in self._engine.memory.loaded]})

    async def tags(self, request: Request) -> Response:
        """All models."""
        return JSONResponse({"models": [{"name": name, "model": name} for name in self._engine.models]})
