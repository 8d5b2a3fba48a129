"""A node that is put together but not started, asked over ASGI without a socket."""

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
    """Requests to one node's app; its clock is the test's."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        config = NodeConfig(name="root", advertise=ME, settings=Settings(**settings))
        self.node = Node(config, clock=self.clock, rng=Random(7))
        self.app = build_app(self.node)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        if method == "POST" and (handler := self.node.lane.handlers.get(path.encode())) is not None:
            return _at_once(handler, httpx.Request(method, ME + path, **options).content)

        async def ask() -> httpx.Response:
            # raise_app_exceptions: a defect fails the test, instead of looking like an answer of 500.
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url=ME) as http:
                return await http.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)

    def post(self, path: str, message: Any = None) -> Any:
        """The JSON of an answer that must be 200. No message: no body, as FastChat's peers send it."""
        options = {} if message is None else {"content": json.dumps(message)}
        answer = self.ask("POST", path, **options)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        return answer.json()


def _at_once(handler: Handler, body: bytes) -> httpx.Response:
    """What the lane makes of a path that it answers by a function."""
    headers = {"content-type": "application/json"}
    try:
        return httpx.Response(200, headers=headers, content=handler(body, b"", "127.0.0.1"))
    except RequestError as error:
        return httpx.Response(error.status, headers=headers, json=error.openai())


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """OpenAI's error object, after checking that it is one and nothing besides."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"]
    return error
