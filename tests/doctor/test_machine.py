"""The checks of the machine itself."""

from __future__ import annotations

import resource
import socket

import pytest

from hierarchy.doctor.finding import Verdict, ok
from hierarchy.doctor.machine import check_files, check_listen, check_proxy
from hierarchy.uplink.dial import parse_proxy


@pytest.mark.parametrize(
    ("soft", "hard", "verdict", "what"),
    [
        (65536, 65536, Verdict.OK, "about 32736 streams"),
        (1024, 65536, Verdict.WARN, "about 480 streams"),
        (10, 10, Verdict.WARN, "about 0 streams"),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, Verdict.OK, "no limit"),
    ],
)
def test_the_limit_of_open_files(soft: int, hard: int, verdict: Verdict, what: str) -> None:
    finding = check_files(soft, hard)
    assert finding.verdict is verdict
    assert what in finding.what
    assert ("(at most 65536 for this user)" in finding.hint) == (soft == 1024)


def test_a_proxy_is_shown_whether_the_node_uses_it_or_not() -> None:
    assert check_proxy(None, {"PATH": "x", "http_proxy": ""}).verdict is Verdict.OK
    finding = check_proxy(None, {"HTTPS_PROXY": "http://user:hunter2@p:1", "http_proxy": "http://p:1"})
    assert finding.verdict is Verdict.WARN
    assert finding.what.startswith("HTTPS_PROXY, http_proxy in the environment")
    assert "hunter2" not in finding.what + finding.hint
    finding = check_proxy(parse_proxy("http://user:hunter2@p:1"), {})
    assert finding == ok("proxy", "this node dials its parent through p:1")


def test_a_taken_port_is_a_failure_unless_the_node_itself_uses_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (free,) = check_listen([("127.0.0.1", 0)], {})
        (clash,) = check_listen([("127.0.0.1", port)], {})
        (own,) = check_listen([("127.0.0.1", port)], {("127.0.0.1", port): "site"})
    assert (free.verdict, clash.verdict, own.verdict) == (Verdict.OK, Verdict.FAIL, Verdict.OK)
    assert clash.what == f"127.0.0.1:{port} is used by another process"
    assert own.what == f"127.0.0.1:{port} is used by site, which is running already"


@pytest.mark.parametrize(
    ("host", "what"),
    [("192.0.2.1", "this machine has no such address"), ("a..b", "a..b:1: "), ("2001:db8::1", "[2001")],
)
def test_addresses_of_other_machines_are_failures(host: str, what: str) -> None:
    (finding,) = check_listen([(host, 1)], {})
    assert finding.verdict is Verdict.FAIL
    assert what in finding.what
    assert finding.hint
