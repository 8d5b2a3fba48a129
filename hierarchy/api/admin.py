"""Commands for a node or engine anywhere below, named by its path: `{"path": "site-a/gpu-1"}`.

The first name of a path is a child of this node. The rest is forwarded to that child over the same connections as
requests: for a reverse link, those that the child dialled.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Request, Response

from hierarchy.api.body import json_response, read_message
from hierarchy.errors import BadRequest, UnknownChild
from hierarchy.node import Node
from hierarchy.registry.child import Child
from hierarchy.registry.drain import Drain
from hierarchy.registry.registry import drain_key
from hierarchy.relay.upstream.request import send_request

MAX_SLASHES = 36  # in a path: a request passes at most 32 nodes, and a FastChat worker's name is a URL


class PathRequest(msgspec.Struct, frozen=True):
    """The message of `POST /admin/drain` and `/admin/undrain`."""

    path: str


def router(node: Node) -> APIRouter:
    """Routes for draining, and for the status of one node or engine."""
    routes = APIRouter()
    limit = node.settings.max_body_bytes

    @routes.post("/admin/drain")
    async def drain(request: Request) -> Response:
        return await _drain(node, (await read_message(request, PathRequest, limit)).path, draining=True)

    @routes.post("/admin/undrain")
    async def undrain(request: Request) -> Response:
        return await _drain(node, (await read_message(request, PathRequest, limit)).path, draining=False)

    @routes.get("/admin/status")
    async def status(path: str = "") -> Response:
        if not path:
            return json_response(node.view.tree())
        child, rest = _find(node, path)
        if child.is_node:  # the node itself has newer and more complete status than its last report
            return await _forward(node, child, "GET", f"/admin/status?path={quote(rest)}" if rest else "/admin/status")
        return json_response(node.view.entry(child))

    return routes


async def _drain(node: Node, path: str, *, draining: bool) -> Response:
    child, rest = _find(node, path)
    if rest:
        command = "drain" if draining else "undrain"
        return await _forward(node, child, "POST", f"/admin/{command}", {"path": rest})
    key = child.name if child.name == child.group else drain_key(child)
    node.registry.set_drain(key, Drain() if draining else None)
    return json_response({"node": node.identity.name, "child": child.name, "draining": draining})


def _find(node: Node, path: str) -> tuple[Child, str]:
    """The child at the beginning of a path, and the rest of the path.

    Raises:
        BadRequest: the path is malformed.
        UnknownChild: the child does not exist, or it is an engine and the path continues.
    """
    children = node.registry.children
    if path in children:  # first, since the name of a FastChat worker is a URL, which contains slashes
        return children[path], ""
    name, slash, rest = path.partition("/")
    if not name or (slash and not rest) or path.count("/") > MAX_SLASHES:
        raise BadRequest(f"{path[:200]!r} is not a path: write names separated by `/`, such as site-a/gpu-1", "path")
    child = children.get(name)
    if child is None or (rest and not child.is_node):
        known = ", ".join(sorted(children)) or "none"
        problem = f"{name!r} is an engine and has no children" if child else f"no child {name[:100]!r}"
        raise UnknownChild(f"{problem} at {node.identity.name}; children here: {known}")
    return child, rest


async def _forward(node: Node, child: Child, method: str, target: str, message: Any = None) -> Response:
    """Send a command to a child that is a node, and return its response. message: to send as JSON; None for none."""
    body = b"" if message is None else json.dumps(message).encode()
    status, content = await send_request(node.lane.pool(child), method, target, body)
    return Response(content, status, media_type="application/json")
