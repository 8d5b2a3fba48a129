"""The endpoints of FastChat's controller, for unmodified workers, clients and other controllers, and for nodes.

`/worker_generate_stream` and `/receive_heart_beat` are in `relay`. No endpoint here waits for a worker's response: the
status of workers is requested in the background.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import msgspec
from fastapi import APIRouter, Request, Response

from hierarchy.api.auth_middleware import caller_of, peer_of, requirement_of
from hierarchy.api.body import json_response, read_body, read_message
from hierarchy.api.held import HeldRequest
from hierarchy.config.address import is_loopback
from hierarchy.errors import ModelNotAllowed, RequestError, RequirementUnmet
from hierarchy.labels import Requirement
from hierarchy.node import Node
from hierarchy.registry.child import Child, Share
from hierarchy.registry.prepared import prepare
from hierarchy.security.access import bearer_token
from hierarchy.security.tokens import Grant
from hierarchy.wire.large import LARGE_BYTES, decode_steps
from hierarchy.wire.messages import Accepted, Deregistration, ModelRequest, Registration

SWEPT_AT_ONCE = 128  # children
LONGEST_INTERVAL_S = 60.0  # between two reports: a child that is gone keeps its name for ten times as long
log = logging.getLogger("hierarchy.api")


def router(node: Node) -> APIRouter:
    """Routes for the children and clients of a node."""
    routes = APIRouter()
    _add_child_routes(routes, node)
    _add_client_routes(routes, node)
    return routes


# -- for children -------------------------------------------------------------------------------------------------


def _add_child_routes(routes: APIRouter, node: Node) -> None:
    @routes.post("/register_worker")
    async def register_worker(request: Request) -> Response:
        child, credential = await _register(node, request)
        if not child.is_node:
            node.request_status(child)
            return json_response(None)  # as FastChat's controller answers
        return Response(msgspec.json.encode(_accepted(node, child, credential)), media_type="application/json")

    @routes.post("/deregister_worker")
    async def deregister_worker(request: Request) -> Response:
        child = await _deregister(node, request)
        if child is not None:
            log.info("%s deregistered", child.name)
        return json_response({"exist": child is not None})


async def _register(node: Node, request: Request) -> tuple[Child, str]:
    """Register a child. Returns it and the credential to send to it; "" for none."""
    policy, registry, peer = node.access.registration_policy, node.registry, peer_of(request.scope)
    token = bearer_token(request.headers.get("authorization", "").encode("latin-1")).decode("latin-1")
    limit = policy.body_limit(token, peer, node.settings.max_body_bytes)
    rate, name = policy.rate, policy.name_of(token)
    spending = partial(rate.spending, name)
    await rate.wait(name)
    body = await read_body(request, limit)
    message, below = await node.slices.run(decode_steps(body, Registration, registry.limits), spending)
    grant = policy.check(message, token, peer)
    claim, absent = await node.urls.examine(message, peer)
    ready = None
    if len(body) > LARGE_BYTES:
        known = registry.find(message.node or message.worker_name)
        steps = prepare(message, known, registry.max_speed, registry.limits, below, None)
        ready = await node.slices.run(steps, spending)
    if message.node or ready is not None:
        # While its URL was tried, or others had their turns, its token may have been used or its credential revoked.
        grant = policy.check(message, token, peer)
    for rival in absent:
        node.evict(rival, message.node)
    known = registry.find(message.node or message.worker_name)
    with rate.spending(name):
        identity, labels = (grant.identity, grant.labels) if grant else ("", None)
        child = registry.register(message, identity, claim, ready=ready, labels=labels)
    child.local = is_loopback(peer)
    if child.is_node:
        longest_s = max(LONGEST_INTERVAL_S, node.settings.report_interval_s)
        child.interval_s = min(max(message.interval_s, node.settings.report_interval_s), longest_s)
    credential = await _redeem(node, child, message, grant) if grant is not None else ""
    if known is not child:
        models = ", ".join(child.status.model_names) or "no model yet"
        name = child.name if child.label == child.name else f"{child.name} (for clients: {child.label})"
        log.info("%s registered from %s with %s", name, child.url, models)
    return child, credential


async def _redeem(node: Node, child: Child, message: Registration, grant: Grant) -> str:
    """Use up the child's token and return its new credential. If that fails, remove the child again."""
    try:
        return await node.access.registration_policy.redeem(message, grant)
    except RequestError:
        if node.registry.find(child.name) is child:  # it may have left meanwhile
            node.registry.remove(child.name)
        raise


def _accepted(node: Node, child: Child, credential: str) -> Accepted:
    """The response to the registration of a node."""
    identity, child.prefix_key = node.identity, node.lane.fingerprints.key
    return Accepted(
        identity.name,
        identity.instance,
        identity.version,
        child.interval_s or node.settings.report_interval_s,
        link="reverse" if child.reverse else "direct",
        links_per_s=node.links_per_s() if child.reverse else 0.0,
        wanted=node.lane.registered(child),
        credential=credential,
        prefix_key=child.prefix_key,
    )


async def _deregister(node: Node, request: Request) -> Child | None:
    """Remove a child that shows the secret of its registration. Returns it; None if there is no such child."""
    policy, registry, peer = node.access.registration_policy, node.registry, peer_of(request.scope)
    message = await read_message(request, Deregistration, policy.body_limit("", peer, node.settings.max_body_bytes))
    child = registry.sender(message) or registry.find(message.worker_name)
    secret = request.headers.get("x-hierarchy-auth", "").encode("latin-1")
    if child is None or child.declared or not policy.secret_matches(child.secret, secret):
        return None
    return registry.depart(child.name, message.instance)


# -- for clients and other controllers ----------------------------------------------------------------------------


def _add_client_routes(routes: APIRouter, node: Node) -> None:
    registry = node.registry

    @routes.post("/refresh_all_workers")
    async def refresh_all_workers() -> Response:
        for _ in registry.sweep_in_parts(SWEPT_AT_ONCE):
            await asyncio.sleep(0)
        for child in registry:
            node.request_status(child)
        return json_response(None)

    @routes.post("/list_models")
    async def list_models(request: Request) -> Response:
        return _models(node, request, await node.slices.run(registry.model_names_steps()))

    @routes.post("/list_multimodal_models")
    async def list_multimodal_models(request: Request) -> Response:
        return _models(node, request, await node.slices.run(registry.names_by_mode_steps(multimodal=True)))

    @routes.post("/list_language_models")
    async def list_language_models(request: Request) -> Response:
        return _models(node, request, await node.slices.run(registry.names_by_mode_steps(multimodal=False)))

    @routes.post("/get_worker_address")
    async def get_worker_address(request: Request) -> Response:
        message = await read_message(request, ModelRequest, node.settings.max_body_bytes)
        if not caller_of(request).may_use(message.model):
            raise ModelNotAllowed("this API key is not for that model; /list_models lists the models that it is for")
        require = requirement_of(request)
        share = await _hand_out(node, message.model, HeldRequest(node.lane.waiting_room, request), require)
        address = _address(node, share, message.model, require) if share is not None else ""
        if address == node.identity.url and require != caller_of(request).require:
            # The client's next request, to this node, may come without the field.
            raise RequirementUnmet(f"no engine with {require.text if require else ''} can be called directly")
        return json_response({"address": address})

    @routes.post("/worker_get_status")
    async def worker_get_status(request: Request) -> Response:
        status = (await node.slices.run(registry.status_steps())).fastchat()
        return json_response(status | {"model_names": _usable(node, request, status["model_names"])})

    @routes.get("/test_connection")
    async def test_connection() -> Response:
        return json_response("success")


async def _hand_out(node: Node, name: str, held: HeldRequest, require: Requirement | None) -> Share | None:
    """The share for the next request for a model or an alias, which may have to wait for it; None if there is none.

    Raises:
        RequirementUnmet: there is none with the labels that are required.
    """
    dispatch = node.dispatch
    while True:
        try:
            return dispatch.hand_out(dispatch.resolve(name, "fastchat", translated=True, require=require), require)
        except RequestError as error:
            if not await held.wait(dispatch.models(name), error, require):
                if isinstance(error, RequirementUnmet):
                    raise
                return None


def _address(node: Node, share: Share, requested: str, require: Requirement | None) -> str:
    """The URL for a client's requests: the child's own, or this node's if the client cannot use the child directly.

    That is the case if the child cannot be dialled, speaks another API, or does not know the requested alias; or if it
    is a node, and labels are required, of which it knows nothing if the client calls it directly.
    """
    child = share.child
    unusable = child.reverse or requested != share.key[0] or (share.key[1] != "fastchat" and not child.is_node)
    unusable = unusable or (require is not None and child.is_node)
    return node.identity.url if unusable or node.settings.address == "self" else child.url


def _models(node: Node, request: Request, names: list[str]) -> Response:
    return json_response({"models": _usable(node, request, names)})


def _usable(node: Node, request: Request, names: list[str]) -> list[str]:
    """Those of the models that the caller may use, and that something with the labels it requires serves."""
    caller, require = caller_of(request), requirement_of(request)
    usable = [name for name in names if caller.may_use(name)]
    return usable if require is None else [name for name in usable if node.registry.serves_with(name, require)]
