"""What people and their machines look at: `/tree`, `/route`, `/health`, `/ready`, `/metrics`. All of it from memory."""

from __future__ import annotations

from typing import get_args

from fastapi import APIRouter, Response

from hierarchy.api.body import json_response
from hierarchy.errors import BadRequest
from hierarchy.node import Node
from hierarchy.route import explain
from hierarchy.status import Api

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def router(node: Node) -> APIRouter:
    """Routes over one node."""
    routes = APIRouter()

    @routes.get("/tree")
    async def tree() -> Response:
        return json_response(node.view.tree())

    @routes.get("/route")
    async def route(model: str = "", api: str = "openai") -> Response:
        """Who would get the next request for a model, and why nobody else; nothing is claimed."""
        if not model:
            raise BadRequest("name a model: /route?model=NAME", param="model")
        family = next((known for known in get_args(Api) if known == api), None)
        if family is None:
            raise BadRequest(f"no API family {api[:40]!r}: give openai or fastchat", param="api")
        resolved = node.dispatch.resolve(model, family)
        if not node.registry.listed(resolved):
            node.dispatch.choose((resolved, family))  # which says what there is instead
        return json_response({"asked": model, **explain(node.view.tree(), resolved, family)})

    @routes.get("/health")
    async def health() -> Response:
        """The process lives."""
        return json_response({"status": "ok", "node": node.identity.name, "version": node.identity.version})

    @routes.get("/ready")
    async def ready() -> Response:
        """A request could be served now: 200, else 503."""
        models = node.registry.model_names()
        return json_response({"ready": bool(models), "models": models}, 200 if models else 503)

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(node.metrics.render(), media_type=METRICS_TYPE)

    return routes
