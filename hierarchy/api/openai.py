"""OpenAI's model list. Every `POST /v1/*` goes through the relay instead."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from hierarchy.api.auth_middleware import caller_of
from hierarchy.api.body import json_response
from hierarchy.api.held import HeldRequest
from hierarchy.errors import ModelNotFound, RequestError, Unavailable
from hierarchy.introspection.model_list import encode_steps
from hierarchy.node import Node
from hierarchy.security.caller import Caller


def router(node: Node) -> APIRouter:
    """Routes for the models below a node."""
    routes = APIRouter()
    making = asyncio.Lock()  # many requests wait for one list, and do not make one each

    async def all_rows() -> Mapping[str, dict[str, Any]]:
        async with making:
            return await node.slices.run(node.models.rows_steps())

    @routes.get("/v1/models")
    async def models(request: Request) -> Response:
        caller = caller_of(request)
        if caller.models is None:
            async with making:
                text = await node.slices.run(node.models.encoded_steps())
            return Response(text, media_type="application/json")
        usable = (row for name, row in (await all_rows()).items() if caller.may_use(name))
        return Response(await node.slices.run(encode_steps(usable)), media_type="application/json")

    @routes.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        held, caller = HeldRequest(node.lane.waiting_room, request), caller_of(request)
        while True:
            row = (await all_rows()).get(name)
            if row is not None and caller.may_use(name):
                return json_response(row)
            error = _why_not(node, caller, name)
            if not await held.wait(node.dispatch.models(name), error):
                raise error

    return routes


def _why_not(node: Node, caller: Caller, name: str) -> RequestError:
    """Why a model is not in the list."""
    if caller.may_use(name):
        try:
            node.dispatch.choose((node.dispatch.resolve(name, "openai", translated=True), "openai"), translated=True)
        except Unavailable as error:
            return error
        except ModelNotFound:
            pass
    return ModelNotFound(f"no child serves model {name[:100]!r}; GET /v1/models lists the available models")
