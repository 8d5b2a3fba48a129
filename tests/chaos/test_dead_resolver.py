"""A resolver that does not answer, below dead parents: a site goes on with its own engines.

root: three nodes with the same engines, one named by /etc/hosts and one by its address
      direct, reverse   also have engines and two parents at names that only DNS could know
      quiet             has none of them, for comparison
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.subnets.network import Network, address, obstacle

pytestmark = pytest.mark.slow
PORTS = {"direct": 21001, "reverse": 21002, "quiet": 21003}
ENGINES = ("openai=http://engine.site:8000", f"openai=http://{address('root')}:8001")
DEAD_ENGINES = tuple(f"openai=http://dead-{number}.test:1" for number in range(4))
DEAD_PARENTS = tuple(f"http://parent-{number}.test:1" for number in range(2))
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2})
SHORT_S, FULL_S = 4.0, 60.0
ADDED_S = 0.005  # at most, to the median; the 99th percentile is that of the machine, where it is busy


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """The nodes and their engines. The resolver's machine is there, and a firewall drops the questions."""
    if (reason := obstacle()) is not None:
        pytest.skip(reason)
    resolver, hosts = tmp_path / "resolv.conf", tmp_path / "hosts"
    resolver.write_text(f"nameserver {address('site-b')}\n")
    hosts.write_text("127.0.0.1 localhost engine.site\n")
    mounts = f"mount --bind {resolver} /etc/resolv.conf && mount --bind {hosts} /etc/hosts"
    running: list[subprocess.Popen[str]] = []
    with Network() as network, (tmp_path / "log").open("w") as log:

        def start(*arguments: str) -> None:
            command = ["sh", "-c", f'{mounts} && exec "$@"', "sh", sys.executable, "-m", "hierarchy", *arguments]
            running.append(network.start("root", command, stdout=log, stderr=log))

        for port in ("8000", "8001"):
            speed = ("--decode-tokens-per-s", "1000")
            start("engine", "simulated", "--host", "0.0.0.0", "--port", port, "--model", "m", *speed)
        for name, number in PORTS.items():
            start("serve", "--node", name, "--host", "127.0.0.1", "--port", str(number), *_options(name))
        yield network
        for process in running:
            network.end(process)


def _options(name: str) -> list[str]:
    is_quiet = name == "quiet"
    engines = ENGINES if is_quiet else (*ENGINES, *DEAD_ENGINES)
    parents = () if is_quiet else DEAD_PARENTS
    flags = [("--engine", engine) for engine in engines] + [("--parent", parent) for parent in parents]
    link = ["--link", name] if parents else []
    return ["--cleartext", *link, *(part for flag in flags for part in flag)]


def test_a_dead_resolver_and_dead_parents_cost_a_site_nothing(
    network: Network, full: bool, record: Callable[..., None]
) -> None:
    urls = {name: f"http://127.0.0.1:{port}" for name, port in PORTS.items()}
    for name, url in urls.items():
        texts = ['"state":"up"', *(() if name == "quiet" else ('"state":"down"',))]
        found = network.read_line(network.start_agent("root", "poll", "40", f"{url}/tree", *texts))["after"]
        assert found is not None, name
    paths = [f"{url}/v1/chat/completions" for url in urls.values()]
    seen = network.read_line(network.start_agent("root", "load", str(FULL_S if full else SHORT_S), CHAT, *paths))
    answers = dict(zip(urls, (seen[path] for path in paths), strict=True))
    failed = {name: sum(status != 200 for status, _ in found) for name, found in answers.items()}
    late = {name: _percentile([seconds for _, seconds in found]) for name, found in answers.items()}
    for name in ("direct", "reverse"):
        added_ms = 1000 * (late[name] - late["quiet"])
        record(
            f"{name} parents: {failed[name]} of {len(answers[name])} failed; p99 {1000 * late[name]:.1f} ms, "
            f"{added_ms:+.1f} ms to a node beside it without the fault",
            target="0; 5 ms",
        )
    assert failed == dict.fromkeys(urls, 0)
    if full:
        median = {name: statistics.median(seconds for _, seconds in found) for name, found in answers.items()}
        assert max(median["direct"], median["reverse"]) <= median["quiet"] + ADDED_S


def _percentile(values: Sequence[float]) -> float:
    """The 99th."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]
