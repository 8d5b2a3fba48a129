"""A node that is not started, and requests to its app over ASGI, without sockets."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import httpx

from hierarchy.api import build_app
from hierarchy.config.models import NodeConfig, Settings
from hierarchy.errors import RequestError
from hierarchy.node import Node
from hierarchy.relay.local_handlers import Handler
from tests.clocks import Clock

ME = "http://root:21001"


class Api:
    """Requests to the app of a node, whose clock the test controls."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        config = NodeConfig(name="root", advertise=ME, settings=Settings(**{"hold_s": 0.0, **settings}))
        self.node = Node(config, clock=self.clock, rng=Random(7))
        self.app = build_app(self.node)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        if method == "POST" and (handler := self.node.lane.handlers.get(path.encode())) is not None:
            return _handle(handler, httpx.Request(method, ME + path, **options).content)

        async def send() -> httpx.Response:
            # raise_app_exceptions: a defect fails the test instead of looking like a response with status 500.
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url=ME) as http:
                return await http.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, path: str, message: Any = None) -> Any:
        """The JSON of a response, whose status must be 200. No message: no body, as FastChat's programs send it."""
        options = {} if message is None else {"content": json.dumps(message)}
        response = self.request("POST", path, **options)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        return response.json()


def _handle(handler: Handler, body: bytes) -> httpx.Response:
    """The response to a path that the relay passes to a function."""
    headers = {"content-type": "application/json"}
    try:
        return httpx.Response(200, headers=headers, content=handler(body, b"", "127.0.0.1"))
    except RequestError as error:
        return httpx.Response(error.status, headers=headers, json=error.openai())


def error_of(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """OpenAI's error object, after a check that the response contains nothing else."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"]
    return error
