"""Reads an engine whose responses the test gives; recorded responses are in `data` (see data/README.md)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from hierarchy.engines.adapters.reading import EngineResponse
from hierarchy.engines.kinds import ADAPTERS
from hierarchy.wire.status import NodeStatus

DATA = Path(__file__).parent / "data"
URL = "http://engine:8000"
MODELS = {"object": "list", "data": [{"id": "m", "object": "model"}]}
LLAMA = {"data": [{"id": "meta-llama/Llama-3.1-8B-Instruct"}]}

Responses = dict[str, tuple[int, Any]]  #: path -> (status, body)


class Answers:
    """An engine that sends these responses by path, and 404 for other paths. It never responds at `hanging`."""

    url = URL

    def __init__(self, responses: Responses, hanging: str = "") -> None:
        self._responses = responses
        self._hanging = hanging
        self.asked: list[str] = []

    async def ask(self, method: str, path: str) -> EngineResponse:
        self.asked.append(path)
        if path not in self._responses:
            path = path.partition("?")[0]
        if path == self._hanging:
            await asyncio.Event().wait()
        status, body = self._responses.get(path, (404, "Not Found"))
        return EngineResponse(URL + path, status, (body if isinstance(body, str) else json.dumps(body)).encode())


def read(kind: str, responses: Responses, speed: float = 1.0, hanging: str = "", limit_s: float = 10.0) -> NodeStatus:
    """Read an engine that sends these responses."""

    async def run() -> NodeStatus:
        async with asyncio.timeout(limit_s):
            return await ADAPTERS[kind].read(Answers(responses, hanging), speed)

    return asyncio.run(run())


def page(name: str) -> tuple[int, str]:
    """A recorded response with status 200."""
    return 200, (DATA / name).read_text()


def llamacpp(state: str) -> Responses:
    """The responses that llama.cpp's server sent in this state."""
    pages = json.loads((DATA / f"llamacpp_{state}.json").read_text())
    return {path: (page["status"], page["body"]) for path, page in pages.items()}


def vllm(**changes: tuple[int, Any]) -> Responses:
    """The responses of a vLLM server. changes: other responses, by path without its first slash."""
    return {
        "/health": (200, ""),
        "/v1/models": page("vllm_models.json"),
        "/metrics": page("vllm_metrics.txt"),
        **{f"/{path}": response for path, response in changes.items()},
    }


def sglang(**changes: tuple[int, Any]) -> Responses:
    """The responses of an SGLang server. changes: other responses, by path without its first slash."""
    return {
        "/health": (200, ""),
        "/v1/models": (200, LLAMA),
        "/metrics": page("sglang_metrics.txt"),
        **{f"/{path}": response for path, response in changes.items()},
    }
