"""Access rules of the HTTP API: which paths are for children, for operators, and (all others) for clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hierarchy.api.body import error_response, not_found
from hierarchy.config.address import Address, is_wildcard
from hierarchy.errors import InvalidApiKey, PathNotAllowed, RequestError
from hierarchy.http.requirement import FIELD, required
from hierarchy.labels import Requirement
from hierarchy.node import Node
from hierarchy.security.caller import ANYONE, Caller

PUBLIC_PATHS = frozenset({"/health", "/ready"})
#: these endpoints check the token or the secret of the child, or the page of another instance, themselves
CHILD_PATHS = frozenset({"/register_worker", "/deregister_worker", "/exchange_records"})
OPERATOR_PATHS = frozenset({"/tree", "/route", "/metrics", "/admin"})  # and all paths below /admin/
_CALLER, _OPERATOR = "hierarchy.caller", "hierarchy.operator"  # keys in the ASGI scope


@dataclass(frozen=True)
class Operator:
    """Who sent a request to a path for operators."""

    name: str  # the name of the admin key, if one is required, and the address
    is_parent: bool = False  # a parent forwards an operator's request, and has checked it


class AuthMiddleware:
    """ASGI middleware in front of all endpoints of a node."""

    def __init__(self, app: ASGIApp, node: Node) -> None:
        self._app = app
        self._node = node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the endpoints, or answer it with 401 or 404."""
        if scope["type"] == "http":
            try:
                exists = self._check(scope)
            except RequestError as error:
                self._node.metrics.refuse(error.code)
                await error_response(error)(scope, receive, send)
                return
            if not exists:
                await not_found(scope["method"], scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> bool:
        """Whether the path exists at the address that received the request.

        Raises:
            RequestError: the caller has no access.
        """
        access, path = self._node.access, scope["path"]
        method, fields = scope["method"].encode(), dict(scope["headers"])
        if path in CHILD_PATHS:
            access.browsers.check_child(fields)
        elif path in OPERATOR_PATHS or path.startswith("/admin/"):
            if self._node.is_parent(fields.get(b"x-hierarchy-auth", b"").decode("latin-1")):
                scope[_OPERATOR] = Operator("the node above", is_parent=True)
                return True  # the parent has checked the operator's key
            if not is_admin_address(scope.get("server"), self._node.config.admin):
                return False
            if not access.requires_admin_key:
                access.browsers.check_client(method, fields)
            key = access.check_admin(fields)
            scope[_OPERATOR] = Operator(f"{key.name} from {peer_of(scope)}" if key.name else peer_of(scope))
        elif path not in PUBLIC_PATHS:
            self._check_client(scope, method, fields)
        return True

    def _check_client(self, scope: Scope, method: bytes, fields: Mapping[bytes, bytes]) -> None:
        """Who sends a request to a path for clients. Raises `RequestError` if it has no access."""
        access = self._node.access
        scope[_CALLER] = caller = self._identify_client(scope, method, fields)
        # Without a list, what is not for clients does not exist here.
        if access.paths_of(caller) and (reason := access.path_problem(caller, scope["method"], scope["path"])):
            raise PathNotAllowed(reason)

    def _identify_client(self, scope: Scope, method: bytes, fields: Mapping[bytes, bytes]) -> Caller:
        access = self._node.access
        if not access.requires_api_key:
            access.browsers.check_client(method, fields)
            return ANYONE
        caller = access.identify_caller(fields)
        if not caller.refusal:
            return caller
        if not access.registration_policy.is_trusted_peer(peer_of(scope)):
            raise InvalidApiKey(caller.refusal)
        access.browsers.check_child(fields)  # the peer's address is its key, which a page at that machine has too
        return ANYONE


def caller_of(request: Request) -> Caller:
    """The client that sent a request to a path for clients."""
    caller: Caller = request.scope.get(_CALLER, ANYONE)
    return caller


def requirement_of(request: Request) -> Requirement | None:
    """The labels that a client's request requires: by its key, and by its field, which may narrow that.

    Raises:
        BadRequest: the field cannot be read.
        LabelNotAllowed: the key requires another value.
    """
    values = request.headers.getlist(FIELD)
    require, _, error = required(caller_of(request), ",".join(values).encode("latin-1") if values else None)
    if error is not None:
        raise error
    return require


def operator_of(request: Request) -> Operator:
    """The operator that sent a request to a path for operators."""
    operator: Operator = request.scope[_OPERATOR]
    return operator


def peer_of(scope: Mapping[str, Any]) -> str:
    """The IP address that a request came from; "" if it is unknown."""
    client = scope.get("client")
    return client[0] if client else ""


def is_admin_address(server: tuple[str, int | None] | None, admin: tuple[Address, ...]) -> bool:
    """Whether the address `server`, which received a request, is for operators. admin: these addresses; () for all."""
    if server is None:
        return not admin
    return not admin or any(server[1] == port and (server[0] == host or is_wildcard(host)) for host, port in admin)
