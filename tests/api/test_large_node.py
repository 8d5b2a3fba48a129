"""Every long response and message of a large node gives way: others have a turn after each child of it."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import httpx
import pytest

from tests.api.support import Api
from tests.builders import model, registration, site

CHILDREN = 300
GPU = {"kind": "vllm", "state": "up", "models": [{"name": "below", "api": "openai"}]}


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/tree", None),
        ("GET", "/metrics", None),
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/m-7", None),
        ("GET", "/route?model=m-7", None),
        ("GET", "/admin/status", None),
        ("POST", "/admin/drain", {"path": "site-7", "force": True}),
        (
            "POST",
            "/register_worker",
            site("new", children={f"gpu-{n}": {**GPU, "detail": "x" * 1000} for n in range(CHILDREN)}),
        ),
    ],
)
def test_others_have_their_turns_meanwhile(method: str, path: str, message: Any) -> None:
    api = Api()
    for number in range(CHILDREN):
        api.node.registry.register(registration(site(f"site-{number}", model(f"m-{number}"), children={"gpu": GPU})))
        api.node.metrics.of_share(f"m-{number}", "openai", f"site-{number}").done("ok")
    ticks = itertools.count()
    api.node.slices._clock = lambda: float(next(ticks))  # one step is a slice
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> int:
        transport = httpx.ASGITransport(api.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            task = asyncio.ensure_future(others())
            try:
                response = await client.request(method, path, json=message)
            finally:
                task.cancel()
        return response.status_code

    api.node.slices._slice_s = 2.0
    assert asyncio.run(run()) == 200
    assert turns > CHILDREN / 2
