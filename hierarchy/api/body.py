"""Reading request bodies and writing JSON for the control plane."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from hierarchy.errors import BadRequest, BodyTooLarge, RequestError
from hierarchy.wire.messages import decode

M = TypeVar("M")


async def read(request: Request, kind: type[M], limit_bytes: int) -> M:
    """Read and decode a message.

    Raises:
        BodyTooLarge: while it streams, at the first byte over the limit.
        BadRequest, InvalidField: as `wire.decode`.
    """
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit_bytes:
                raise BodyTooLarge(f"the body is larger than {limit_bytes} bytes, the limit of this node")
    except ClientDisconnect:
        raise BadRequest("the client left before its request was complete") from None
    return decode(bytes(body), kind)


def error_response(error: RequestError) -> Response:
    """An error in OpenAI's shape."""
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return json_response(error.openai(), error.status, headers)


def not_found(method: str, path: str) -> Response:
    """There is no such path."""
    body = BadRequest(f"no such path: {method} {path}").openai()
    body["error"]["code"] = "not_found"
    return json_response(body, 404)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON without FastAPI's own encoding pass: what we answer is plain already."""
    return Response(json.dumps(content).encode(), status, headers, media_type="application/json")
