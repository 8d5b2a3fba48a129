"""OpenAI's model list. Every `POST /v1/*` goes through the relay instead."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from hierarchy.api.auth_middleware import caller_of
from hierarchy.api.body import json_response
from hierarchy.errors import ModelNotFound
from hierarchy.introspection.model_list import encode
from hierarchy.node import Node


def router(node: Node) -> APIRouter:
    """Routes for the models below a node."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models(request: Request) -> Response:
        caller = caller_of(request)
        if caller.models is None:
            return Response(node.models.encoded(), media_type="application/json")
        usable = [row for name, row in node.models.rows().items() if caller.may_use(name)]
        return Response(encode(usable), media_type="application/json")

    @routes.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        row = node.models.rows().get(name)
        if row is None or not caller_of(request).may_use(name):
            raise ModelNotFound(f"no child serves model {name!r}; GET /v1/models lists the available models")
        return json_response(row)

    return routes
