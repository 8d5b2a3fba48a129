"""What people and their machines look at: `/tree`, `/route`, `/health`, `/ready`, `/metrics`, from memory; `/admin`."""

from __future__ import annotations

from typing import get_args

from fastapi import APIRouter, Request, Response

from hierarchy.api.body import json_response, read
from hierarchy.errors import BadRequest
from hierarchy.introspection.explain import explain
from hierarchy.node import Node
from hierarchy.wire.messages import Revocation
from hierarchy.wire.status import Api
from hierarchy.wire.tree_entry import decode

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def router(node: Node) -> APIRouter:
    """Routes over one node."""
    routes = APIRouter()
    guarded = node.access.requires_api_key or node.access.requires_admin_key

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
        return json_response({"asked": model, **explain(decode(node.view.tree()), resolved, family)})

    @routes.get("/health")
    async def health(request: Request) -> Response:
        """The process lives. Where keys are asked for only a parent, which may have dialled back, learns more."""
        me = node.identity
        open_to_all = not guarded or node.is_parent(request.headers.get("x-hierarchy-auth", ""))
        who = {"node": me.name, "instance": me.instance, "version": me.version} if open_to_all else {}
        return json_response({"status": "ok", **who})

    @routes.get("/ready")
    async def ready() -> Response:
        """A request could be served now: 200, else 503."""
        models = node.registry.model_names()
        what = {} if guarded else {"models": models}
        return json_response({"ready": bool(models), **what}, 200 if models else 503)

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(node.metrics.render(), media_type=METRICS_TYPE)

    @routes.post("/admin/revoke")
    async def revoke(request: Request) -> Response:
        """What was issued to a child is void, and the child is shut out."""
        message = await read(request, Revocation, node.settings.max_body_bytes)
        return json_response({"node": message.node, "was_here": node.revoke(message.node)})

    return routes
