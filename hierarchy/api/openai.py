"""OpenAI's model list. Every `POST /v1/*` is the lane's."""

from __future__ import annotations

from fastapi import APIRouter, Response

from hierarchy.api.body import json_response
from hierarchy.errors import ModelNotFound
from hierarchy.node import Node


def router(node: Node) -> APIRouter:
    """Routes over one node's view."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models() -> Response:
        return json_response(node.view.models())

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        for row in node.view.models()["data"]:
            if row["id"] == name:
                return json_response(row)
        raise ModelNotFound(f"no child serves model {name!r}; GET /v1/models lists those there are")

    return routes
