"""The direct exchange of records between two instances of a node, over a transport that can fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import httpx
import msgspec
import pytest

from hierarchy.errors import InvalidToken
from hierarchy.gossip import Board
from hierarchy.security.exchange_page import PageSigner
from hierarchy.security.record_keeper import RecordKeeper
from hierarchy.security.token_store import TokenStore
from hierarchy.uplink.record_exchange import INTERVAL_S, TICK_S, RecordExchange, RecordPage
from tests.clocks import Clock
from tests.mock_transport import MockTransport

KEY = b"k" * 32


def keeper(folder: Path, name: str, key: bytes = KEY) -> RecordKeeper:
    clock = Clock()
    made = RecordKeeper(TokenStore(folder / name, clock), PageSigner("root", key, name, clock), clock, has_peers=True)
    made.share(Board("root", (key,), now=clock))
    return made


class Bench:
    """An exchange with one instance; `seconds` counts the time that it slept."""

    def __init__(self, folder: Path) -> None:
        self.here, self.there = keeper(folder, "here"), keeper(folder, "there")
        self.seconds = 0.0
        self.requests: list[float] = []
        self.events: list[tuple[float, Callable[[], object]]] = []
        self.respond: Callable[[str], httpx.Response] = self.answer
        self.end = 0.0

    def answer(self, page: str) -> httpx.Response:
        try:
            return httpx.Response(200, content=msgspec.json.encode(RecordPage(self.there.respond(page))))
        except InvalidToken:
            return httpx.Response(401, json={})

    async def handle(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/exchange_records"
        self.requests.append(round(self.seconds, 3))
        return self.respond(msgspec.json.decode(request.content, type=RecordPage).page)

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        for event in [event for event in self.events if event[0] <= self.seconds]:
            self.events.remove(event)
            event[1]()
        if self.seconds >= self.end:
            raise asyncio.CancelledError

    def run(self, seconds: float) -> Bench:
        self.end = self.seconds + seconds

        async def work() -> None:
            http = httpx.AsyncClient(transport=MockTransport(self.handle))
            await RecordExchange(self.here, ("http://there:1",), http, Random(1), self.sleep).run()

        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(work())
        return self


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_new_record_is_sent_at_the_next_tick_and_others_are_fetched_in_any_case(bench: Bench) -> None:
    bench.events = [
        (3.0, lambda: bench.here.revoke("site-a")),
        (4.0, lambda: bench.there.revoke("site-b")),
    ]
    bench.run(3.0 + 2 * TICK_S)
    assert bench.there.store.is_revoked("site-a", 1.0)
    assert len(bench.requests) == 2
    bench.run(1.3 * INTERVAL_S)
    assert bench.here.store.is_revoked("site-b", 1.0)
    assert len(bench.requests) < 8, "a quiet pair hardly exchanges anything"


def refused(page: str) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


@pytest.mark.parametrize(
    ("respond", "reason"),
    [
        (refused, "connection refused"),
        (lambda page: httpx.Response(404, json={}), "it answered 404"),
        (lambda page: httpx.Response(200, content=b"<html>"), "malformed"),
        (lambda page: httpx.Response(200, json={"page": page}), "not the response to the last request"),
        (lambda page: httpx.Response(200, json={"page": "x"}), "not a page of records"),
    ],
    ids=["refused", "earlier release", "not JSON", "reflected", "junk"],
)
def test_a_failure_is_logged_once_and_tried_again(
    bench: Bench,
    caplog: pytest.LogCaptureFixture,
    respond: Callable[[str], httpx.Response],
    reason: str,
) -> None:
    bench.respond = respond
    bench.here.revoke("site-a")
    bench.here.store.note_credential(1.0)
    assert bench.here.problem() == ""
    bench.run(5.0)
    assert 3 <= len(bench.requests) <= 7
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert reason in caplog.text
    assert bench.here.problem(), "it does not wait for ever"
    bench.respond = bench.answer
    bench.run(2.0)
    assert bench.there.store.is_revoked("site-a", 1.0)


def test_an_instance_with_another_key_is_refused(bench: Bench, tmp_path: Path) -> None:
    bench.there = keeper(tmp_path, "stranger", b"x" * 32)
    bench.there.revoke("site-a")
    bench.run(3.0)
    assert not bench.here.store.is_revoked("site-a", 1.0)
