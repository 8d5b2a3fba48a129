from __future__ import annotations

import resource
import socket

import pytest

from hierarchy.doctor.finding import Mark, ok
from hierarchy.doctor.machine import check_files, check_listen, check_proxy
from hierarchy.uplink.dial import parse_proxy


@pytest.mark.parametrize(
    ("soft", "hard", "mark", "says"),
    [
        (65536, 65536, Mark.OK, "some 32736 streams"),
        (1024, 65536, Mark.WARN, "some 480 streams"),
        (10, 10, Mark.WARN, "some 0 streams"),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, Mark.OK, "no limit"),
    ],
)
def test_files(soft: int, hard: int, mark: Mark, says: str) -> None:
    finding = check_files(soft, hard)
    assert finding.mark is mark
    assert says in finding.what
    assert ("(this user may go up to 65536)" in finding.mend) == (soft == 1024)


def test_a_proxy_is_told_of_whether_the_node_uses_it_or_not() -> None:
    assert check_proxy(None, {"PATH": "x", "http_proxy": ""}).mark is Mark.OK
    finding = check_proxy(None, {"HTTPS_PROXY": "http://user:hunter2@p:1", "http_proxy": "http://p:1"})
    assert finding.mark is Mark.WARN
    assert finding.what.startswith("HTTPS_PROXY, http_proxy in the environment")
    assert "hunter2" not in finding.what + finding.mend
    finding = check_proxy(parse_proxy("http://user:hunter2@p:1"), {})
    assert finding == ok("proxy", "this node goes to its parent through p:1")


def test_listening() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (free,) = check_listen([("127.0.0.1", 0)], "")
        (clash,) = check_listen([("127.0.0.1", port)], "")
        (own,) = check_listen([("127.0.0.1", port)], "site")
    assert (free.mark, clash.mark, own.mark) == (Mark.OK, Mark.FAIL, Mark.OK)
    assert clash.what == f"127.0.0.1:{port} is taken by another process"
    assert own.what == f"127.0.0.1:{port} is taken by site, which runs already"


@pytest.mark.parametrize(
    ("host", "says"),
    [("192.0.2.1", "this machine has no such address"), ("a..b", "a..b:1: "), ("2001:db8::1", "[2001")],
)
def test_addresses_of_other_machines(host: str, says: str) -> None:
    (finding,) = check_listen([(host, 1)], "")
    assert finding.mark is Mark.FAIL
    assert says in finding.what
    assert finding.mend
