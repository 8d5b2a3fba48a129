"""httpx's mock transport, with responses that arrive as those of a network do: the head first, then a body to read."""

from __future__ import annotations

import httpx


class MockTransport(httpx.MockTransport):
    """Calls `handler` for each request."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return _unread(super().handle_request(request))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return _unread(await super().handle_async_request(request))


def _unread(response: httpx.Response) -> httpx.Response:
    if not response.is_stream_consumed:
        return response  # it is a stream already
    return httpx.Response(
        response.status_code,
        headers=response.headers,
        stream=httpx.ByteStream(response.content),
        extensions=response.extensions,
    )
