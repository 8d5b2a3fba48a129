"""Commands for a node or engine anywhere below, by its path: `{"path": "site-a/gpu-1"}`.

The first name of a path is a child of this node. What is behind it is passed on to that child over its own connections,
which with a reverse link are those that it dialled.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Request, Response

from hierarchy.api.body import json_response, read
from hierarchy.errors import BadRequest, UnknownChild
from hierarchy.node import Node
from hierarchy.registry.child import Child
from hierarchy.relay.upstream.request import send_request

MAX_DEPTH = 36  # slashes in a path: as many nodes as a request may pass, and a worker's URL


class PathRequest(msgspec.Struct, frozen=True):
    """`POST /admin/drain` and `/admin/undrain`."""

    path: str


def router(node: Node) -> APIRouter:
    """Routes over one node."""
    routes = APIRouter()
    limit = node.settings.max_body_bytes

    @routes.post("/admin/drain")
    async def drain(request: Request) -> Response:
        return await _drain(node, (await read(request, PathRequest, limit)).path, draining=True)

    @routes.post("/admin/undrain")
    async def undrain(request: Request) -> Response:
        return await _drain(node, (await read(request, PathRequest, limit)).path, draining=False)

    @routes.get("/admin/status")
    async def status(path: str = "") -> Response:
        if not path:
            return json_response(node.view.tree())
        child, rest = _find(node, path)
        if child.is_node:  # it knows itself best
            return await _pass_on(node, child, "GET", f"/admin/status?path={quote(rest)}" if rest else "/admin/status")
        return json_response(node.view.entry(child))

    return routes


async def _drain(node: Node, path: str, *, draining: bool) -> Response:
    child, rest = _find(node, path)
    if rest:
        command = "drain" if draining else "undrain"
        return await _pass_on(node, child, "POST", f"/admin/{command}", {"path": rest})
    node.registry.drain_name(child.name, draining)
    return json_response({"node": node.identity.name, "child": child.name, "draining": draining})


def _find(node: Node, path: str) -> tuple[Child, str]:
    """The child that a path begins with, and the rest of the path.

    Raises:
        BadRequest: it is no path.
        UnknownChild: it leads to nobody, as far as this node can tell.
    """
    children = node.registry.children
    if path in children:  # first, as a FastChat worker's name is its URL, which has slashes of its own
        return children[path], ""
    name, slash, rest = path.partition("/")
    if not name or (slash and not rest) or path.count("/") > MAX_DEPTH:
        raise BadRequest(f"{path[:200]!r} is no path: write names with `/` between, such as site-a/gpu-1", "path")
    child = children.get(name)
    if child is None or (rest and not child.is_node):
        known = ", ".join(sorted(children)) or "none"
        what = f"{name!r} is an engine, and has nothing below" if child else f"no child {name[:100]!r}"
        raise UnknownChild(f"{what} at {node.identity.name}; children here: {known}")
    return child, rest


async def _pass_on(node: Node, child: Child, method: str, target: str, message: Any = None) -> Response:
    body = b"" if message is None else json.dumps(message).encode()
    status, answer = await send_request(node.lane.pool(child), method, target, body)
    return Response(answer, status, media_type="application/json")
