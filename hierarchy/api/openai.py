"""OpenAI's model list. Every `POST /v1/*` is the lane's."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from hierarchy.api.auth_middleware import caller_of
from hierarchy.api.body import json_response
from hierarchy.errors import ModelNotFound
from hierarchy.node import Node
from hierarchy.security.keys import Caller


def router(node: Node) -> APIRouter:
    """Routes over one node's view."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models(request: Request) -> Response:
        return json_response(_listed(node, caller_of(request)))

    @routes.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        for row in _listed(node, caller_of(request))["data"]:
            if row["id"] == name:
                return json_response(row)
        raise ModelNotFound(f"no child serves model {name!r}; GET /v1/models lists those there are")

    return routes


def _listed(node: Node, caller: Caller) -> dict[str, Any]:
    """The models that the caller may use."""
    listed = node.view.models()
    return listed | {"data": [row for row in listed["data"] if caller.may_use(row["id"])]}
