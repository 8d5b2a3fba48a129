"""Commands for a node or engine anywhere below, named by its path: `{"path": "site-a/gpu-1"}`.

The first name of a path is a child of this node. The rest is forwarded to that child over the same connections as
requests: for a reverse link, those that the child dialled. If the child is replicated, all its instances get it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Request, Response

from hierarchy.api import audit
from hierarchy.api.auth_middleware import Operator, operator_of
from hierarchy.api.body import json_response, read_message
from hierarchy.drain.impact import models_lost_steps
from hierarchy.errors import (
    BadRequest,
    DeadlinePassed,
    InvalidField,
    LastEngine,
    NotJson,
    RequestError,
    UnknownChild,
)
from hierarchy.introspection.tree import text_steps
from hierarchy.node import Node
from hierarchy.registry.child import Child
from hierarchy.relay.upstream.request import send_request
from hierarchy.runtime import safe_json
from hierarchy.wire.tree_entry import decode

MAX_SLASHES = 36  # in a path: a request passes at most 32 nodes, and a FastChat worker's name is a URL
MAX_TEXT = 500  # characters of a reason
SETTLE_INTERVALS = 1.5  # of reports, in which the other instances of a node hear of a drain
CHECK = "see what `hierarchy drain --list` shows later"
Page = dict[str, Any]


class DrainRequest(msgspec.Struct, frozen=True):
    """The message of `POST /admin/drain` and `/admin/undrain`."""

    path: str
    #: for the log and the tree
    reason: str = ""
    #: drain it even if a model has no other engine
    force: bool = False
    #: believed from a parent only: the operator
    by: str = ""

    def check(self) -> None:
        """Raise `InvalidField` for a value that is not allowed."""
        for field, text in (("reason", self.reason), ("by", self.by)):
            if len(text) > MAX_TEXT or not (text.isprintable() or not text):
                raise InvalidField(field, f"must be one line of at most {MAX_TEXT} printable characters")


def router(node: Node) -> APIRouter:
    """Routes for draining, and for the status of one node or engine."""
    routes = APIRouter()
    limit = node.settings.max_body_bytes

    @routes.post("/admin/drain")
    async def drain(request: Request) -> Response:
        return await _command(node, operator_of(request), "drain", await read_message(request, DrainRequest, limit))

    @routes.post("/admin/undrain")
    async def undrain(request: Request) -> Response:
        return await _command(node, operator_of(request), "undrain", await read_message(request, DrainRequest, limit))

    @routes.get("/admin/status")
    async def status(path: str = "", brief: str = "") -> Response:
        is_brief = brief == "true"
        page = await _status(node, path, brief=is_brief)
        shown = {**page, "models": [], "children": {}} if is_brief else page
        return Response(await node.slices.run(text_steps(shown)), media_type="application/json")

    return routes


# -- drain and undrain ---------------------------------------------------------------------------------------


async def _command(node: Node, operator: Operator, action: str, message: DrainRequest) -> Response:
    """Do it, and write the audit line: at the node that the operator called, whatever the result."""
    message.check()
    by = message.by if operator.is_parent and message.by else operator.name
    message = msgspec.structs.replace(message, by=by)
    with audit.line(action, message.path, by, message.reason) if not operator.is_parent else nullcontext():
        return json_response(await _drain(node, action, message, checked=operator.is_parent))


async def _drain(node: Node, action: str, message: DrainRequest, *, checked: bool) -> Page:
    """Drain or undrain here, or forward it. checked: a parent has checked that no model loses its last engine."""
    name, rest = _first(node, message.path)
    lost = [] if checked or action == "undrain" else await _models_lost(node, message.path)
    if lost and not message.force:
        raise LastEngine(
            f"to drain {message.path} leaves no available engine for {', '.join(lost)} below {node.identity.name}; "
            "to drain it anyway, send `force: true` (--force)",
            lost,
        )
    if rest:
        below = msgspec.structs.replace(message, path=rest)
        page = await _forward(node, _instances(node, name), "POST", f"/admin/{action}", msgspec.to_builtins(below))
    else:
        page = await _drain_here(node, action, name, message)
    return {**page, "models_lost": lost} if lost else page


async def _models_lost(node: Node, path: str) -> list[str]:
    tree = await node.slices.run(node.view.tree_steps())
    return await node.slices.run(models_lost_steps(decode(tree), path))


async def _drain_here(node: Node, action: str, name: str, message: DrainRequest) -> Page:
    page: Page = {"node": node.identity.name, "child": name, "draining": action == "drain"}
    for key in node.drains.keys(name):
        if action == "drain":
            page |= msgspec.structs.asdict(node.drains.drain(key, message.by, message.reason))
        else:
            node.drains.undrain(key, message.by, message.reason)
        page["kept"] = await node.drains.keep()
    intervals = [child.interval_s or 0.0 for child in node.registry if child.is_node]
    return {**page, "settle_s": SETTLE_INTERVALS * max([*intervals, node.settings.report_interval_s])}


# -- status --------------------------------------------------------------------------------------------------


async def _status(node: Node, path: str, *, brief: bool) -> Page:
    """The `/tree` entry of a node or engine, from the nodes that know it best."""
    if not path:
        if not brief:
            return await node.slices.run(node.view.tree_steps())
        await node.slices.run(node.registry.status_steps())
        return node.view.own()
    name, rest = _first(node, path)
    nodes = (
        [child for child in _instances(node, name) if child.is_node] if rest or name in node.registry.children else []
    )
    if not nodes:
        entry: Page = (await node.slices.run(node.view.children_steps()))[name]
        return entry
    query = "&".join([*([f"path={quote(rest)}"] if rest else []), *(["brief=true"] if brief else [])])
    page = await _forward(node, nodes, "GET", f"/admin/status?{query}" if query else "/admin/status")
    return page if rest else page | _seen_from_here(node, nodes, page)


def _seen_from_here(node: Node, nodes: Sequence[Child], page: Page) -> Page:
    """What this node knows of a child better than the child: its state, and requests that it has not begun yet."""
    entries = [node.view.entry(child) for child in nodes]
    shown = next((entry for entry in entries if entry["state"] != "draining"), entries[0])
    fields: Page = {field: shown[field] for field in ("state", "detail", "drain") if field in shown}
    return {**fields, "in_flight": max(page.get("in_flight") or 0, sum(entry["in_flight"] for entry in entries))}


# -- paths ---------------------------------------------------------------------------------------------------


def _first(node: Node, path: str) -> tuple[str, str]:
    """The first name of a path, which is known here, and the rest of the path.

    Raises:
        BadRequest: the path is malformed.
        UnknownChild: the child does not exist, or it is an engine and the path continues.
    """
    known = node.drains.keys
    if known(path):  # first, since the name of a FastChat worker is a URL, which contains slashes
        return path, ""
    name, slash, rest = path.partition("/")
    if not name or (slash and not rest) or path.count("/") > MAX_SLASHES:
        raise BadRequest(f"{path[:200]!r} is not a path: write names separated by `/`, such as site-a/gpu-1", "path")
    here = _instances(node, name)
    if here and (not rest or here[0].is_node):
        return name, rest
    children = ", ".join(sorted(node.registry.children)) or "none"
    problem = f"{name!r} is an engine and has no children" if here else f"no child {name[:100]!r}"
    raise UnknownChild(f"{problem} at {node.identity.name}; children here: {children}")


def _instances(node: Node, name: str) -> list[Child]:
    """The children that a name in a path means: one, or all instances of a replicated node."""
    group = [child for child in node.registry if child.group == name]
    return group or [child for child in node.registry if child.name == name]


# -- forwarding ----------------------------------------------------------------------------------------------


async def _forward(
    node: Node, children: Sequence[Child], method: str, target: str, message: Page | None = None
) -> Page:
    """Send a command to a node, to all its instances if it is replicated, and merge their responses.

    The instances that do not respond are in `failed`, with the reason.

    Raises:
        RequestError: none of them did it; the first one's error.
    """
    body = b"" if message is None else json.dumps(message).encode()
    results = await asyncio.gather(*(_send(node, child, method, target, body) for child in children))
    pages = [result for result in results if not isinstance(result, RequestError)]
    errors = {
        child.name: result for child, result in zip(children, results, strict=True) if isinstance(result, RequestError)
    }
    if not pages:
        raise next(iter(errors.values()))
    return _merged(pages) | ({"failed": {name: str(error) for name, error in errors.items()}} if errors else {})


async def _send(node: Node, child: Child, method: str, target: str, body: bytes) -> Page | RequestError:
    """The response of one child, or the error that it or the connection to it returned."""
    try:
        status, content = await send_request(node.lane.pool(child), method, target, body)
    except DeadlinePassed as error:  # the command may wait in its buffers
        return error if method == "GET" else DeadlinePassed(f"{error}, and may still do it: {CHECK}")
    except RequestError as error:
        return error
    page = _object(content)
    return page if status == 200 else RefusedBelow(status, page, child.name)


class RefusedBelow(RequestError):
    """A node below refused a command: its response."""

    def __init__(self, status: int, page: Page, child: str) -> None:
        error = page.get("error")
        self._body = page if isinstance(error, dict) else None
        super().__init__(str(error.get("message")) if isinstance(error, dict) else f"{child} answered {status}")
        self.status = status  # of this response
        self.code = str(error.get("code")) if isinstance(error, dict) else "child_failed"  # type: ignore[misc]

    def openai(self) -> Page:
        """The child's own error object."""
        return self._body or super().openai()


def _object(content: bytes) -> Page:
    try:
        page = safe_json.decode(content)
    except NotJson:
        return {}
    return page if isinstance(page, dict) else {}


def _merged(pages: Sequence[Page]) -> Page:
    """One response for all instances. Each has requests of its own in flight; they see the same engines' queues."""
    merged = dict(pages[0])
    for field, merge in (("in_flight", sum), ("queue_length", max), ("settle_s", max), ("kept", any)):
        if field in merged:
            merged[field] = merge([page.get(field) or 0 for page in pages])
    states = {page.get("state") for page in pages} - {"draining"}
    if "state" in merged and states:  # draining only where all agree
        merged["state"] = next(page["state"] for page in pages if page.get("state") in states)
    return merged
