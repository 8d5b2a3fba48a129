"""What people and their machines look at: `/tree`, `/health`, `/ready`, `/metrics`, all of it from memory; `/admin`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from hierarchy.api.body import json_response, read
from hierarchy.node import Node
from hierarchy.wire import Revocation

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def router(node: Node) -> APIRouter:
    """Routes over one node."""
    routes = APIRouter()
    guarded = node.access.asks_clients or node.access.asks_admins

    @routes.get("/tree")
    async def tree() -> Response:
        return json_response(node.view.tree())

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
