"""OpenAI's model list. Every `POST /v1/*` goes through the relay instead."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from hierarchy.api.auth_middleware import caller_of, requirement_of
from hierarchy.api.body import json_response
from hierarchy.api.held import HeldRequest
from hierarchy.errors import ModelNotFound, RequestError, Unavailable
from hierarchy.introspection.model_list import encode_steps
from hierarchy.labels import Requirement
from hierarchy.node import Node
from hierarchy.security.caller import Caller


def router(node: Node) -> APIRouter:
    """Routes for the models below a node."""
    routes = APIRouter()
    making = asyncio.Lock()  # many requests wait for one list, and do not make one each

    async def all_rows(require: Requirement | None) -> Mapping[str, dict[str, Any]]:
        async with making:
            rows = await node.slices.run(node.models.rows_steps())
        return rows if require is None else await node.slices.run(node.models.rows_with_steps(rows, require))

    @routes.get("/v1/models")
    async def models(request: Request) -> Response:
        caller, require = caller_of(request), requirement_of(request)
        if caller.models is None and require is None:
            async with making:
                text = await node.slices.run(node.models.encoded_steps())
            return Response(text, media_type="application/json")
        usable = (row for name, row in (await all_rows(require)).items() if caller.may_use(name))
        return Response(await node.slices.run(encode_steps(usable)), media_type="application/json")

    @routes.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        held, caller = HeldRequest(node.lane.waiting_room, request), caller_of(request)
        require = requirement_of(request)
        while True:
            row = (await all_rows(require)).get(name)
            if row is not None and caller.may_use(name):
                return json_response(row)
            error = _why_not(node, caller, name, require)
            if not await held.wait(node.dispatch.models(name), error, require):
                raise error

    return routes


def _why_not(node: Node, caller: Caller, name: str, require: Requirement | None) -> RequestError:
    """Why a model is not in the list."""
    if caller.may_use(name):
        try:
            model = node.dispatch.resolve(name, "openai", translated=True, require=require)
            node.dispatch.choose((model, "openai"), translated=True, require=require)
        except Unavailable as error:
            return error
        except ModelNotFound:
            pass
    return ModelNotFound(f"no child serves model {name[:100]!r}; GET /v1/models lists the available models")
