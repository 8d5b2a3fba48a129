"""The endpoints of FastChat's controller, for unmodified workers, clients and other controllers; and our nodes'.

`/worker_generate_stream` is the lane's. Nothing here waits for a child: what a worker is asked goes on behind.
"""

from __future__ import annotations

import logging

import msgspec
from fastapi import APIRouter, Request, Response

from hierarchy.api.auth_middleware import caller_of, peer_of
from hierarchy.api.body import json_response, read
from hierarchy.config.address import is_loopback
from hierarchy.errors import ModelNotAllowed, RequestError
from hierarchy.node import Node
from hierarchy.registry.child import Share
from hierarchy.wire.messages import Accepted, Deregistration, ModelRequest, Registration

log = logging.getLogger("hierarchy.api")


def router(node: Node) -> APIRouter:
    """Routes over one node's registry."""
    routes = APIRouter()
    _for_workers(routes, node)
    _for_clients(routes, node)
    return routes


def _for_workers(routes: APIRouter, node: Node) -> None:
    """What children call: to register, to report, to leave."""
    registry, limit = node.registry, node.settings.max_body_bytes
    policy = node.access.registration_policy

    @routes.post("/register_worker")
    async def register_worker(request: Request) -> Response:
        peer = peer_of(request.scope)
        message = await read(request, Registration, policy.body_limit(bearer_of(request), peer, limit))
        grant = policy.check(message, bearer_of(request), peer)
        reverse = bool(message.node) and await node.wants_reverse(message, peer)
        if message.link == "auto":  # its URL was tried meanwhile, and what it showed may have been revoked or used
            grant = policy.check(message, bearer_of(request), peer)
        known = registry.find(message.node or message.worker_name)
        child = registry.register(message, grant.identity if grant else "", reverse=reverse)
        child.local = is_loopback(peer)
        credential = ""
        if grant is not None:
            try:
                credential = policy.redeem(message, grant)
            except RequestError:
                registry.remove(child.name)
                raise
        if known is not child:
            log.info("%s registered from %s with %s", child.name, child.url, child.status.model_names or "no model yet")
        if not child.is_node:
            node.ask_status(child)
            return json_response(None)  # FastChat's own answer
        identity = node.identity
        interval_s = max(message.interval_s, node.settings.report_interval_s)
        child.interval_s = interval_s
        accepted = Accepted(
            identity.name,
            identity.instance,
            identity.version,
            interval_s,
            link="reverse" if child.reverse else "direct",
            links_per_s=node.links_per_s() if child.reverse else 0.0,
            wanted=node.lane.registered(child),
            credential=credential,
        )
        return Response(msgspec.json.encode(accepted), media_type="application/json")

    @routes.post("/deregister_worker")
    async def deregister_worker(request: Request) -> Response:
        message = await read(request, Deregistration, policy.body_limit("", peer_of(request.scope), limit))
        known = registry.sender(message) or registry.find(message.worker_name)
        shown = request.headers.get("x-hierarchy-auth", "").encode("latin-1")
        if known is not None and (known.declared or not policy.secret_matches(known.secret, shown)):
            known = None
        child = registry.depart(known.name, message.instance) if known is not None else None
        if child is not None:
            log.info("%s left", child.name)
        return json_response({"exist": child is not None})


def bearer_of(request: Request) -> str:
    """The token in `authorization: Bearer TOKEN`; "" if there is none."""
    scheme, _, token = request.headers.get("authorization", "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _for_clients(routes: APIRouter, node: Node) -> None:
    """What clients and other controllers call: to see what there is, and where."""
    registry, limit = node.registry, node.settings.max_body_bytes

    @routes.post("/refresh_all_workers")
    async def refresh_all_workers() -> Response:
        registry.sweep()
        for child in registry:
            node.ask_status(child)
        return json_response(None)

    @routes.post("/list_models")
    async def list_models(request: Request) -> Response:
        return _models(request, registry.model_names())

    @routes.post("/list_multimodal_models")
    async def list_multimodal_models(request: Request) -> Response:
        return _models(request, registry.names_by_mode(multimodal=True))

    @routes.post("/list_language_models")
    async def list_language_models(request: Request) -> Response:
        return _models(request, registry.names_by_mode(multimodal=False))

    @routes.post("/get_worker_address")
    async def get_worker_address(request: Request) -> Response:
        message = await read(request, ModelRequest, limit)
        if not caller_of(request).may_use(message.model):
            raise ModelNotAllowed("this API key is not for that model; /list_models lists those that it is for")
        dispatch = node.dispatch
        share = dispatch.hand_out(dispatch.resolve(message.model, "fastchat", translated=True))
        return json_response({"address": _address(node, share, message.model) if share is not None else ""})

    @routes.post("/worker_get_status")
    async def worker_get_status(request: Request) -> Response:
        status = registry.status().fastchat()
        return json_response(status | {"model_names": _usable(request, status["model_names"])})

    @routes.get("/test_connection")
    async def test_connection() -> Response:
        return json_response("success")


def _address(node: Node, share: Share, asked: str) -> str:
    """Where a client shall go: to the child itself, or to this node, where the child alone would not do.

    That is one that nobody can dial, one that speaks another API, and one that does not know what an alias stands for.
    """
    child = share.child
    own = child.reverse or asked != share.key[0] or (share.key[1] != "fastchat" and not child.is_node)
    return node.identity.url if own or node.settings.address == "self" else child.url


def _models(request: Request, names: list[str]) -> Response:
    return json_response({"models": _usable(request, names)})


def _usable(request: Request, names: list[str]) -> list[str]:
    caller = caller_of(request)
    return [name for name in names if caller.may_use(name)]
