"""Whom the app serves: each path is for children, clients or operators, and what is not named is for clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hierarchy.api.body import error_response, not_found
from hierarchy.config.address import Address, is_wildcard
from hierarchy.errors import InvalidApiKey, RequestError
from hierarchy.node import Node
from hierarchy.security.keys import ANYONE, Caller

OPEN = frozenset({"/health", "/ready"})
#: children show what they have to the endpoint itself
CHILDREN = frozenset({"/register_worker", "/deregister_worker"})
OPERATORS = frozenset({"/tree", "/route", "/metrics", "/admin"})
_CALLER = "hierarchy.caller"


class AuthMiddleware:
    """ASGI middleware in front of all of a node's endpoints."""

    def __init__(self, app: ASGIApp, node: Node) -> None:
        self._app = app
        self._node = node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                found = self._admit(scope)
            except RequestError as error:
                self._node.metrics.refuse(error.code)
                await error_response(error)(scope, receive, send)
                return
            if not found:
                await not_found(scope["method"], scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> bool:
        """Whether there is such a path at the address that was asked. Raises RequestError for who may not ask."""
        access, path = self._node.access, scope["path"]
        if path in OPERATORS or path.startswith("/admin/"):
            fields = dict(scope["headers"])
            if self._node.is_parent(fields.get(b"x-hierarchy-auth", b"").decode("latin-1")):
                return True  # an operator asked it, who showed a key there
            if not is_among(scope.get("server"), self._node.config.admin):
                return False
            access.check_admin(fields)
        elif path not in OPEN and path not in CHILDREN and access.requires_api_key:
            caller = access.identify_caller(dict(scope["headers"]))
            if caller.refusal and not access.registration_policy.is_trusted_peer(peer_of(scope)):
                raise InvalidApiKey(caller.refusal)
            scope[_CALLER] = ANYONE if caller.refusal else caller
        return True


def caller_of(request: Request) -> Caller:
    """Who asks, on a path for clients."""
    caller: Caller = request.scope.get(_CALLER, ANYONE)
    return caller


def peer_of(scope: Mapping[str, Any]) -> str:
    """The IP address at the other end."""
    client = scope.get("client")
    return client[0] if client else ""


def is_among(server: tuple[str, int | None] | None, admin: tuple[Address, ...]) -> bool:
    """Did the request come to one of these addresses? () are all."""
    if server is None:
        return not admin
    return not admin or any(server[1] == port and (server[0] == host or is_wildcard(host)) for host, port in admin)
