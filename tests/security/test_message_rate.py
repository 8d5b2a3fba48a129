"""The messages of one credential take a share of a node's time, and no more."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hierarchy.errors import TooManyMessages
from hierarchy.security.message_rate import BURST_S, MAX_ACCOUNTS, MAX_WAIT_S, MAX_WAITING, SHARE, MessageRate
from tests.api.support import error_of
from tests.api.test_auth_middleware import SecuredApi
from tests.builders import report, site
from tests.clocks import Clock
from tests.security.keyed import bearer

EXISTS = (b'{"exist": true', b'{"exist":true')


class Bench:
    """A rate whose clocks the test moves; whoever sleeps lets time pass."""

    def __init__(self) -> None:
        self.clock, self.cpu = Clock(), Clock()
        self.slept: list[float] = []
        self.rate = MessageRate(self.clock, self.cpu, self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.tick(seconds)

    def work(self, name: str, seconds: float) -> None:
        with self.rate.spending(name):
            self.cpu.tick(seconds)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_site_that_sends_for_ever_gets_its_share_and_no_more(bench: Bench) -> None:
    used = 0.0
    while bench.clock.now < 1000 + 600:
        try:
            asyncio.run(bench.rate.wait("evil"))
        except TooManyMessages as error:
            bench.clock.tick(error.retry_after_s or 0)
            continue
        bench.work("evil", 0.3)
        bench.clock.tick(0.01)
        used += 0.3
    assert used <= SHARE * 600 + BURST_S + 0.6
    assert used >= SHARE * 600 * 0.9, "and it is not shut out"
    assert max(bench.slept) <= MAX_WAIT_S


def test_others_wait_for_nothing(bench: Bench) -> None:
    bench.work("evil", 100.0)
    with pytest.raises(TooManyMessages, match="evil"):
        bench.rate.check("evil")
    bench.rate.check("site-a")
    bench.work("", 100.0)
    bench.rate.check("")  # nobody needs a credential here
    asyncio.run(bench.rate.wait("site-a"))
    assert bench.slept == []


def test_ten_large_registrations_at_once_are_ordinary(bench: Bench) -> None:
    for _ in range(10):
        bench.rate.check("site-a")
        bench.work("site-a", 0.5)
    bench.clock.tick(20)
    bench.rate.check("site-a")


def test_only_a_few_messages_of_one_credential_wait(bench: Bench) -> None:
    bench.work("evil", BURST_S + 0.1)
    waits: list[Any] = []

    async def several() -> None:
        never = asyncio.Event()

        async def hang(seconds: float) -> None:
            await never.wait()

        bench.rate._sleep = hang
        tasks = [asyncio.create_task(bench.rate.wait("evil")) for _ in range(MAX_WAITING + 3)]
        await asyncio.sleep(0)
        never.set()
        waits.extend(await asyncio.gather(*tasks, return_exceptions=True))

    asyncio.run(several())
    assert sum(isinstance(one, TooManyMessages) for one in waits) == 3
    assert waits.count(None) == MAX_WAITING


def test_it_is_logged_once_and_again_after_it_was_over(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for times in (1, 2):
        bench.work("evil", 2 * BURST_S)
        for _ in range(5):
            with pytest.raises(TooManyMessages):
                bench.rate.check("evil")
        assert len(caplog.records) == times
        bench.clock.tick(1000)
        bench.rate.check("evil")


def test_accounts_are_forgotten_when_they_are_full_again(bench: Bench) -> None:
    for number in range(2 * MAX_ACCOUNTS):
        bench.work(f"site-{number}", 0.01)
        bench.clock.tick(1)
    assert len(bench.rate._accounts) <= MAX_ACCOUNTS
    bench.clock.tick(10)
    bench.rate.forget()
    assert not bench.rate._accounts


@pytest.fixture
def api(tmp_path: Path) -> SecuredApi:
    api = SecuredApi(tmp_path, cleartext=True)
    for name in ("evil", "site-a"):
        assert api.register(site(name, secret=name, link="reverse"), api.keys.token(name)).status_code == 200
    return api


def shown(api: SecuredApi, name: str) -> str:
    response = api.register(site(name, secret=name, link="reverse"), api.keys.token(name))
    return str(response.json().get("credential", ""))


def _report(api: SecuredApi, name: str, secret: str, seq: int = 5) -> bytes:
    handler: Callable[..., bytes] = api.node.lane.handlers[b"/receive_heart_beat"]
    return handler(report_bytes(name, seq), secret.encode(), "127.0.0.1")


def report_bytes(name: str, seq: int) -> bytes:
    return json.dumps(report(name, seq=seq)).encode()


def test_each_message_of_a_site_is_counted(api: SecuredApi) -> None:
    """Registrations and reports, also those that are refused."""
    rate, cpu = api.node.access.registration_policy.rate, Clock()
    rate._cpu = lambda: (cpu.tick(0.1), cpu.now)[1]  # type: ignore[func-returns-value]
    rate._accounts.clear()
    assert _report(api, "evil", "evil").startswith(EXISTS)
    after_report = rate._accounts["evil"].balance
    assert after_report < BURST_S
    api.register(site("evil", secret="evil", link="reverse", models=7), api.keys.token("evil"))
    assert rate._accounts["evil"].balance < after_report
    assert "site-a" not in rate._accounts


def test_a_site_that_has_used_up_its_time_gets_429_and_stays(api: SecuredApi) -> None:
    rate, registry = api.node.access.registration_policy.rate, api.node.registry
    token = api.keys.token("evil")
    rate.spend("evil", 10 * BURST_S)
    response = api.register(site("evil", secret="evil", link="reverse"), token)
    assert "share" in error_of(response, 429, "too_many_messages")["message"]
    assert int(response.headers["retry-after"]) >= 1
    seen = registry.children["evil"].last_seen
    with pytest.raises(TooManyMessages):
        _report(api, "evil", "evil")
    assert registry.children["evil"].last_seen > seen  # type: ignore[operator]

    async def long_report() -> bytes:
        return await api.node.lane.long_handlers[b"/receive_heart_beat"](
            bytearray(report_bytes("evil", 9)), b"evil", "127.0.0.1"
        )

    with pytest.raises(TooManyMessages):
        asyncio.run(long_report())
    assert _report(api, "site-a", "site-a").startswith(EXISTS)


def test_another_site_cannot_use_up_a_siblings_time(api: SecuredApi) -> None:
    """The name in a message proves nothing; the secret or the credential does."""
    rate = api.node.access.registration_policy.rate
    rate._accounts.clear()
    assert _report(api, "site-a", "evil") == b'{"exist": false}'
    assert "site-a" not in rate._accounts
    response = api.register(site("site-a", secret="x"), api.keys.token("evil"))
    assert response.status_code == 403
    assert "site-a" not in rate._accounts


def test_a_node_without_keys_limits_nobody(tmp_path: Path) -> None:
    api = SecuredApi(tmp_path, cleartext=True)
    policy = api.node.access.registration_policy
    assert policy.name_of("") == ""
    assert policy.name_of("no token") == ""


LEAVES: dict[str, Callable[[SecuredApi], object]] = {
    "stays": lambda api: None,
    "drains": lambda api: api.request(
        "POST", "/receive_heart_beat", report("evil", seq=9, draining=True), x_hierarchy_auth="evil"
    ),
    "left": lambda api: api.request(
        "POST",
        "/deregister_worker",
        {"worker_name": "http://evil:21001", "instance": "evil-1", "node": "evil"},
        x_hierarchy_auth="evil",
    ),
    "fell silent": lambda api: api.node.registry.depart("evil"),
    "restarted": lambda api: api.register(
        site("evil", secret="new", link="reverse", instance="evil-2", seq=1), api.keys.token("evil")
    ),
    "asks for no deadline": lambda api: api.register(
        site("evil", secret="evil", link="reverse", check_heart_beat=False, seq=2), api.keys.token("evil")
    ),
    "too large": lambda api: api.register(
        site("evil", secret="evil", link="reverse", seq=2, children={str(n): {} for n in range(200_000)}),
        api.keys.token("evil"),
    ),
}


@pytest.mark.parametrize("state", LEAVES)
def test_no_state_hides_a_child_from_its_revocation(api: SecuredApi, state: str) -> None:
    tokens = [api.keys.token("evil"), shown(api, "evil")]
    LEAVES[state](api)
    response = api.request("POST", "/admin/revoke", {"node": "evil"}, **bearer(api.keys.admin))
    assert response.status_code == 200
    registry = api.node.registry
    assert [name for name in (*registry.children, *registry.departed) if name.startswith("evil")] == []
    for token in filter(None, tokens):
        error_of(api.register(site("evil", secret="evil", link="reverse"), token), 401, "invalid_token")
    assert "site-a" in registry.children
