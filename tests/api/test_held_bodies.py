"""Bodies that the API reads have a place in the node's held bytes, and give it back however their request ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.api.held_bodies import HeldBodies
from hierarchy.errors import MemoryFull
from hierarchy.relay.held_bytes import HeldBytes
from tests.api.support import Api

LIMIT = 100


@given(st.lists(st.integers(0, 2 * LIMIT), max_size=8), st.booleans())
def test_what_is_counted_is_given_back(sizes: list[int], fails: bool) -> None:
    held, seen = HeldBytes(LIMIT), 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal seen
        for _ in sizes:
            seen += len((await receive()).get("body", b""))
            assert held.total == seen
        if fails:
            raise LookupError("a defect")

    messages = iter([{"type": "http.request", "body": b"x" * size} for size in sizes])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        pass

    def run() -> None:
        asyncio.run(HeldBodies(app, held)({"type": "http"}, receive, send))

    if sum(sizes) > LIMIT:
        with pytest.raises(MemoryFull):
            run()
    elif fails:
        with pytest.raises(LookupError):
            run()
    else:
        run()
        assert seen == sum(sizes)
    assert held.total == 0
    assert seen <= LIMIT


@pytest.mark.parametrize("path", ["/register_worker", "/exchange_records", "/admin/revoke"])
def test_a_full_node_reads_no_body(path: str) -> None:
    api = Api()
    api.node.lane.held.limit = LIMIT
    response = api.request("POST", path, content=b"{" + b" " * LIMIT + b"}")
    assert response.status_code == 503, response.text
    assert response.json()["error"]["code"] == "memory_full"
    assert api.node.lane.held.total == 0
    assert api.node.lane.held.refused == 1
