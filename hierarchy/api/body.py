"""Reading request bodies and writing JSON responses of the HTTP API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from hierarchy.errors import BadRequest, BodyTooLarge, RequestError
from hierarchy.wire.limits import DEFAULT
from hierarchy.wire.messages import decode

M = TypeVar("M")


async def read_message(
    request: Request, kind: type[M], limit_bytes: int, max_values: int = DEFAULT.message_values
) -> M:
    """Read and decode the body of a request. max_values: see `hierarchy.wire.messages.decode`.

    Raises:
        BodyTooLarge: at the first byte over the limit, or for too many values.
        BadRequest, InvalidField: as `hierarchy.wire.messages.decode`.
    """
    return decode(await read_body(request, limit_bytes), kind, max_values)


async def read_body(request: Request, limit_bytes: int) -> bytearray:
    """Read the body of a request.

    Raises:
        BodyTooLarge: at the first byte over the limit.
        BadRequest: the client disconnected.
    """
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit_bytes:
                raise BodyTooLarge(f"the body is larger than {limit_bytes} bytes, the limit of this node")
    except ClientDisconnect:
        raise BadRequest("the client disconnected before its request was complete") from None
    return body


def error_response(error: RequestError) -> Response:
    """An error in OpenAI's format."""
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return json_response(error.openai(), error.status, headers)


def not_found(method: str, path: str) -> Response:
    """The response for a path that does not exist."""
    body = BadRequest(f"no such path: {method} {path}").openai()
    body["error"]["code"] = "not_found"
    return json_response(body, 404)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response without FastAPI's conversion of its content, which is plain data already."""
    return Response(json.dumps(content).encode(), status, headers, media_type="application/json")
