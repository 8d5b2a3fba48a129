"""The HTTP endpoints that the lane does not serve: FastChat's controller, OpenAI's model list, pages for operators."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from hierarchy.api import admin, fastchat, openai, operators, route, state
from hierarchy.api.auth_middleware import AuthMiddleware
from hierarchy.api.body import error_response, json_response, not_found
from hierarchy.api.held_bodies import HeldBodies
from hierarchy.errors import BadRequest, RequestError
from hierarchy.node import Node


def build_app(node: Node) -> FastAPI:
    """The ASGI app of a node. Its errors have OpenAI's shape on every path."""
    app = FastAPI(title="hierarchy", version=node.identity.version, openapi_url=None)
    app.include_router(fastchat.router(node))
    app.include_router(openai.router(node))
    app.include_router(operators.router(node))
    app.include_router(route.router(node))
    app.include_router(admin.router(node))
    app.include_router(state.router(node))
    app.add_middleware(HeldBodies, held=node.lane.held)
    app.add_middleware(AuthMiddleware, node=node)
    app.exception_handler(RequestError)(_request_error)
    app.exception_handler(HTTPException)(_http_error)
    return app


async def _request_error(request: Request, error: RequestError) -> Response:
    return error_response(error)


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Starlette's own errors, such as an unknown path, in OpenAI's format."""
    if error.status_code == 404:
        return not_found(request.method, request.url.path)
    where = f"{request.method} {request.url.path}"
    wrong_method = error.status_code == 405
    message = f"{where}: this path does not take that method" if wrong_method else str(error.detail)
    body = BadRequest(message).openai()
    body["error"]["code"] = "method_not_allowed" if wrong_method else "bad_request"
    return json_response(body, error.status_code, dict(error.headers or {}))
