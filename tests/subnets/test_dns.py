"""A resolver that does not answer takes away only what nothing but it knows.

root: an engine at engine.site, which /etc/hosts knows; engines and parents at names that only DNS could know
its resolver is in another subnet, behind a firewall that drops the questions
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hierarchy.relay.upstream.pool import ENGINE_IDLE_S
from tests.subnets.network import Network, address
from tests.support import eventually

pytestmark = pytest.mark.slow
NODE, ENGINE = "http://127.0.0.1:21001", "http://engine.site:8000"
DEAD_ENGINES = [f"openai=http://dead-{number}.test:1" for number in range(4)]
DEAD_PARENTS = [f"http://parent-{number}.test:1" for number in range(2)]
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2})


@pytest.fixture
def cut_off(network: Network, tmp_path: Path) -> Iterator[Network]:
    """A node whose resolver does not answer: it can reach one engine, and neither the four others nor its parents."""
    resolver, hosts = tmp_path / "resolv.conf", tmp_path / "hosts"
    resolver.write_text(f"nameserver {address('site-b')}\n")
    hosts.write_text("127.0.0.1 localhost engine.site\n")
    mounts = f"mount --bind {resolver} /etc/resolv.conf && mount --bind {hosts} /etc/hosts"
    engines = [option for engine in (f"openai={ENGINE}", *DEAD_ENGINES) for option in ("--engine", engine)]
    parents = [option for parent in DEAD_PARENTS for option in ("--parent", parent)]
    running: list[subprocess.Popen[str]] = []
    with (tmp_path / "log").open("w") as log:

        def start(*arguments: str) -> None:
            command = ["sh", "-c", f'{mounts} && exec "$@"', "sh", sys.executable, "-m", "hierarchy", *arguments]
            running.append(network.start("root", command, stdout=log, stderr=log))

        start("engine", "simulated", "--port", "8000", "--model", "m", "--decode-tokens-per-s", "1000")
        start("serve", "--cleartext", "--host", "127.0.0.1", "--port", "21001", *engines, *parents)
        yield network
        for process in running:
            network.end(process)


def wait_for(network: Network, path: str, text: str) -> None:
    found = network.read_line(network.start_agent("root", "poll", "30", f"{NODE}{path}", text))["after"]
    assert found is not None, text


def connections(network: Network) -> int:
    """How many connections the node has to the engine; where there are none, a request needs its address."""
    return sum(remote.endswith(":8000") for _, remote in network.ports("root")["opened"])


def test_a_dead_resolver_takes_no_engine_that_can_be_resolved_without_it(cut_off: Network) -> None:
    wait_for(cut_off, "/v1/models", '"id":"m"')
    wait_for(cut_off, "/tree", '"state":"down"')  # an engine whose name nobody knows: look-ups have been waiting
    for _ in range(2):
        eventually(lambda: connections(cut_off) <= 1, "only the probe's connection is left", ENGINE_IDLE_S + 5.0)
        burst = cut_off.start_agent("root", "burst", "20", f"{NODE}/v1/chat/completions", CHAT)
        seen = cut_off.read_line(burst)
        assert seen["statuses"] == [200] * 20
        assert seen["slowest"] < 2.0, "a look-up that nobody answers takes 5 s and more"
