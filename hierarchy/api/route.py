"""`/route`: where the next request for a model goes, and why. With a request's body, where that request would go.

For a prompt each node on the path is asked in turn, over the connections for requests: which of its children has what
of the prompt is known to that node only. It gets the fingerprint, as with a request, and not the prompt.
"""

from __future__ import annotations

from typing import get_args
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Request, Response

from hierarchy.api.body import read_body
from hierarchy.errors import BadRequest, RequestError
from hierarchy.http.json_scan import JsonScan
from hierarchy.http.model_field import prompt_in
from hierarchy.http.prompt import Prompt
from hierarchy.introspection.explain import Route, explain_steps, with_answer
from hierarchy.labels import Requirement, of_parent
from hierarchy.node import Node
from hierarchy.prefix.fingerprint import Fingerprint
from hierarchy.prefix.header import decode as decode_prefix
from hierarchy.prefix.header import encode as encode_prefix
from hierarchy.relay.upstream.request import send_request
from hierarchy.runtime.steps import Steps
from hierarchy.wire.status import Api
from hierarchy.wire.tree_entry import decode

AT_ONCE = 64 * 1024  # bytes of a body that are read in one step
TIMEOUT_S = 3.0  # of what a node below says; else its part is guessed
MAX_NAME = 256  # characters of a session's or a caller's name


def router(node: Node) -> APIRouter:
    """`GET /route` and `POST /route`."""
    routes = APIRouter()

    @routes.get("/route")
    async def route(model: str = "", api: str = "openai", prefix: str = "", require: str = "") -> Response:
        asked, family = _checked(model, api)
        needed = _requirement(require)
        fingerprint = None
        if prefix:  # from the node above
            fingerprint = decode_prefix(prefix.encode("utf-8", "surrogatepass"))
            if fingerprint is None:
                raise BadRequest("`prefix` is not the fingerprint of a prompt", param="prefix")
        return _response(await _explain(node, asked, family, fingerprint, require=needed))

    @routes.post("/route")
    async def route_of(
        request: Request,
        model: str = "",
        api: str = "openai",
        session: str = "",
        caller: str = "",
        require: str = "",
    ) -> Response:
        needed = _requirement(require)
        for name, text in (("session", session), ("caller", caller)):
            if len(text) > MAX_NAME:
                raise BadRequest(f"`{name}` is longer than {MAX_NAME} characters", param=name)
        body = bytes(await read_body(request, node.settings.max_body_bytes))
        named, prompt = await node.slices.run(_read_steps(body))
        if model and model != named:
            raise BadRequest(f"the body is for model {named[:100]!r}, not for {model[:100]!r}", param="model")
        asked, family = _checked(named, api)
        resolved = _resolved(node, asked, family, needed)
        fingerprint = node.lane.fingerprints.of_prompt(prompt, resolved, caller, session.encode())
        found = await _explain(node, asked, family, fingerprint, resolved, needed)
        return _response(msgspec.structs.replace(found, prompt=prompt.length))

    return routes


def _response(route: Route) -> Response:
    return Response(msgspec.json.encode(route), media_type="application/json")


def _checked(model: str, api: str) -> tuple[str, Api]:
    if not model:
        raise BadRequest("the parameter `model` is missing: /route?model=NAME", param="model")
    family = next((known for known in get_args(Api) if known == api), None)
    if family is None:
        raise BadRequest(f"unknown API family {api[:40]!r}: use openai or fastchat", param="api")
    return model, family


def _requirement(text: str) -> Requirement | None:
    """The labels that are required, as a client or a parent sends them; None for none."""
    try:
        return of_parent(text) if text else None
    except ValueError as error:
        raise BadRequest(f"require: {error.args[0]}; {error.args[1]}", param="require") from None


def _resolved(node: Node, model: str, api: Api, require: Requirement | None) -> str:
    """The model's name after aliases. Raises `ModelNotFound`."""
    resolved = node.dispatch.resolve(model, api, require=require)
    if not node.registry.listed(resolved):
        node.dispatch.choose((resolved, api))  # raises an error that lists the available models
    return resolved


def _read_steps(body: bytes) -> Steps[tuple[str, Prompt]]:
    """The model and the prompt of a request's body, piece by piece. Raises `BadRequest`."""
    scan = JsonScan()
    for begin in range(0, len(body), AT_ONCE):
        scan.feed(body[begin : begin + AT_ONCE])
        yield
    found = scan.finish()
    return found.model, prompt_in([body], found)


async def _explain(
    node: Node,
    model: str,
    api: Api,
    fingerprint: Fingerprint | None,
    resolved: str = "",
    require: Requirement | None = None,
) -> Route:
    """Which child would get the next request, and why the others would not. Takes no lease.

    resolved: the model's name after aliases, if it is known. Raises `ModelNotFound`.
    """
    resolved = resolved or _resolved(node, model, api, require)
    known = None if fingerprint is None else node.dispatch.known((resolved, api), fingerprint, require)
    tree = await node.slices.run(node.view.tree_steps())
    route = await node.slices.run(explain_steps(decode(tree), resolved, api, model, known, require))
    if fingerprint is None:
        return route
    below = await _answer_below(node, route, fingerprint, require)
    route = route if below is None else with_answer(route, below)
    return msgspec.structs.replace(route, digests=len(fingerprint.digests))


async def _answer_below(
    node: Node, route: Route, fingerprint: Fingerprint, require: Requirement | None
) -> Route | None:
    """What the next node on the path says of the same prompt; None if it is none, or says nothing of use."""
    child = node.registry.children.get(route.levels[0].next) if route.levels else None
    if child is None or not child.is_node or len(route.levels) < 2:
        return None
    query = {"model": route.model, "api": route.levels[0].api, "prefix": encode_prefix(fingerprint).decode()}
    if require is not None:
        query["require"] = require.below(child.labels.bound).field.decode()
    try:
        status, content = await send_request(
            node.lane.pool(child), "GET", f"/route?{urlencode(query)}", timeout_s=TIMEOUT_S
        )
        return msgspec.json.decode(content, type=Route) if status == 200 else None
    except (RequestError, msgspec.MsgspecError, UnicodeDecodeError):
        return None  # what its last report says is shown instead
