"""OpenAI's model list. Every `POST /v1/*` goes through the relay instead."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from hierarchy.api.auth_middleware import caller_of
from hierarchy.api.body import json_response
from hierarchy.errors import ModelNotFound
from hierarchy.node import Node
from hierarchy.security.keys import Caller


def router(node: Node) -> APIRouter:
    """Routes for the models below a node."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models(request: Request) -> Response:
        return json_response(_models_for(node, caller_of(request)))

    @routes.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        for row in _models_for(node, caller_of(request))["data"]:
            if row["id"] == name:
                return json_response(row)
        raise ModelNotFound(f"no child serves model {name!r}; GET /v1/models lists the available models")

    return routes


def _models_for(node: Node, caller: Caller) -> dict[str, Any]:
    """The list of the models that the caller may use."""
    models = node.view.models()
    return models | {"data": [row for row in models["data"] if caller.may_use(row["id"])]}
