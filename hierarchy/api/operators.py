"""Endpoints for operators and their monitoring: `/tree`, `/health`, `/ready`, `/metrics`, `/admin/revoke`.

All responses come from memory.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from hierarchy.api import audit
from hierarchy.api.auth_middleware import operator_of
from hierarchy.api.body import json_response, read_message
from hierarchy.introspection.tree import text_steps
from hierarchy.node import Node
from hierarchy.runtime import exposition
from hierarchy.wire.messages import Revocation

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def router(node: Node) -> APIRouter:
    """Routes for the state of a node."""
    routes = APIRouter()
    uses_keys = node.access.requires_api_key or node.access.requires_admin_key

    @routes.get("/tree")
    async def tree() -> Response:
        whole = await node.slices.run(node.view.tree_steps())
        return Response(await node.slices.run(text_steps(whole)), media_type="application/json")

    @routes.get("/health")
    async def health(request: Request) -> Response:
        """200 while the process lives. A node with keys shows its name only to its parents, which dial back."""
        identity, is_parent = node.identity, node.is_parent(request.headers.get("x-hierarchy-auth", ""))
        shown = ("name", "instance", "version", "build") if is_parent or not uses_keys else ()
        names = {"node" if field == "name" else field: getattr(identity, field) for field in shown}
        # It proves that the child is here: everybody may know the instance, but not the secret.
        return json_response({"status": "ok", **names, **({"parent": True} if is_parent else {})})

    @routes.get("/ready")
    async def ready() -> Response:
        """200 if a request could be served now, else 503."""
        models = await node.slices.run(node.registry.model_names_steps())
        names = {} if uses_keys else {"models": models}
        return json_response({"ready": bool(models), **names}, 200 if models else 503)

    @routes.get("/metrics")
    async def metrics() -> Response:
        text = node.slices.stream(exposition.pieces(node.metrics))
        return StreamingResponse(text, media_type=METRICS_TYPE)

    @routes.post("/admin/revoke")
    async def revoke(request: Request) -> Response:
        """Make void what was issued to a child, and disconnect it."""
        message = await read_message(request, Revocation, node.settings.max_body_bytes)
        with audit.line("revoke", message.node, operator_of(request).name):
            return json_response({"node": message.node, "was_here": await node.revoke(message.node)})

    return routes
