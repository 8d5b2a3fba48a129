"""What people and their machines look at: `/tree`, `/health`, `/ready`, `/metrics`. All of it from memory."""

from __future__ import annotations

from fastapi import APIRouter, Response

from hierarchy.api.body import json_response
from hierarchy.node import Node

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def router(node: Node) -> APIRouter:
    """Routes over one node."""
    routes = APIRouter()

    @routes.get("/tree")
    async def tree() -> Response:
        return json_response(node.view.tree())

    @routes.get("/health")
    async def health() -> Response:
        """The process lives; `instance` tells a parent that dials back whether it reached whom it meant."""
        me = node.identity
        return json_response({"status": "ok", "node": me.name, "instance": me.instance, "version": me.version})

    @routes.get("/ready")
    async def ready() -> Response:
        """A request could be served now: 200, else 503."""
        models = node.registry.model_names()
        return json_response({"ready": bool(models), "models": models}, 200 if models else 503)

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(node.metrics.render(), media_type=METRICS_TYPE)

    return routes
