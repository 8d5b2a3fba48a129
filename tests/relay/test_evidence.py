"""Which children cannot be reached, judged by the connections on which their requests wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hierarchy.registry.child import Child
from hierarchy.relay.evidence import LOOKED_AT, QUIET_S, Finding, find, is_quiet
from hierarchy.runtime.tcp_keepalive import RETRIES, UNREACHABLE_S, TcpState

NOW = 1000.0
LOST = TcpState(in_flight=1, retries=RETRIES, last_ack_s=UNREACHABLE_S + 0.5)
ACKNOWLEDGED = TcpState(in_flight=0, retries=0, last_ack_s=60.0)


def attempt(child: Child, state: TcpState | None, *, ago_s: float = 10.0) -> Any:
    return SimpleNamespace(child=child, sent_at=NOW - ago_s, sender=SimpleNamespace(tcp_state=lambda: state))


@pytest.fixture
def child() -> Child:
    return Child("gpu", "http://gpu:1", "vllm", declared=True)


def test_a_child_that_acknowledges_nothing_is_unreachable(child: Child) -> None:
    attempts = [attempt(child, ACKNOWLEDGED), attempt(child, LOST), attempt(child, LOST)]
    assert find(attempts, NOW) == [Finding(attempts[1], LOST.last_ack_s, is_alone=False)]


@pytest.mark.parametrize(
    "state",
    [
        None,
        ACKNOWLEDGED,
        LOST._replace(in_flight=0),
        LOST._replace(retries=RETRIES - 1),
        LOST._replace(last_ack_s=UNREACHABLE_S - 0.1),
    ],
)
def test_less_evidence_is_not_enough(child: Child, state: TcpState | None) -> None:
    assert find([attempt(child, state)], NOW) == []


def test_a_connection_that_was_idle_for_long_gets_its_time_from_the_request(child: Child) -> None:
    assert find([attempt(child, LOST._replace(last_ack_s=500.0), ago_s=1.0)], NOW) == []


def test_if_anything_was_acknowledged_meanwhile_only_that_connection_is_lost(child: Child) -> None:
    (finding,) = find([attempt(child, LOST), attempt(child, ACKNOWLEDGED._replace(last_ack_s=1.0))], NOW)
    assert finding.is_alone


def test_few_connections_of_each_child_are_looked_at(child: Child) -> None:
    other = Child("other", "http://other:1", "vllm", declared=True)
    attempts = [attempt(child, ACKNOWLEDGED)] * LOOKED_AT + [attempt(child, LOST), attempt(other, LOST)]
    assert [finding.attempt for finding in find(attempts, NOW)] == attempts[-1:]


def test_an_attempt_that_is_not_connected_proves_nothing(child: Child) -> None:
    assert find([SimpleNamespace(child=child, sent_at=0.0, sender=None)], NOW) == []  # type: ignore[list-item]


def test_only_children_with_requests_from_which_nothing_comes_are_looked_at(child: Child) -> None:
    child.heard_at = NOW - QUIET_S
    assert not is_quiet(child, NOW)
    child.total.open = 1
    assert is_quiet(child, NOW)
    child.heard_at = NOW - QUIET_S / 2
    assert not is_quiet(child, NOW)
