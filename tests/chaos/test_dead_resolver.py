"""A resolver that does not answer, below dead parents: a site goes on with its own engines.

root: three nodes with the same engines, one named by /etc/hosts and one by its address
      direct, reverse   also have engines and two parents at names that only DNS could know
      quiet             has none of them, for comparison
"""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.chaos import holds
from tests.subnets.network import Network, address, obstacle

pytestmark = pytest.mark.slow
PORTS = {"direct": 21001, "reverse": 21002, "quiet": 21003}
ENGINES = ("openai=http://engine.site:8000", f"openai=http://{address('root')}:8001")
DEAD_ENGINES = tuple(f"openai=http://dead-{number}.test:1" for number in range(4))
DEAD_PARENTS = tuple(f"http://parent-{number}.test:1" for number in range(2))
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2})
SHORT_S, FULL_S = 4.0, 60.0
ADDED_S = 0.005  # at most, to the 99th percentile
WINDOWS = (
    12  # in each of which the nodes are compared: other work on the machine disturbs some of them, and is no fault
)


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
    holds.check(holds.logged("a node", tmp_path / "log"))


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
    times = {name: [seconds for _, seconds in found] for name, found in answers.items()}
    added = {name: _added(times[name], times["quiet"], WINDOWS if full else 2) for name in ("direct", "reverse")}
    for name, added_s in added.items():
        record(
            f"{name} parents: {failed[name]} of {len(times[name])} failed; "
            f"p99 {1000 * _percentile(times[name]):.1f} ms, "
            f"{1000 * _percentile(times['quiet']):.1f} ms at a node beside it without the fault; "
            f"added {1000 * added_s:+.1f} ms in the median of windows",
            target="0; 5 ms",
        )
    assert failed == dict.fromkeys(urls, 0)
    if full:
        assert max(added.values()) <= ADDED_S


def _added(times: Sequence[float], beside: Sequence[float], windows: int) -> float:
    """What is added to the 99th percentile: the median of windows, which are at the same time in both."""
    pairs = zip(_split(times, windows), _split(beside, windows), strict=True)
    return statistics.median(_percentile(one) - _percentile(other) for one, other in pairs)


def _split(times: Sequence[float], windows: int) -> list[Sequence[float]]:
    size = len(times) // windows
    return [times[number * size : (number + 1) * size] for number in range(windows)]


def _percentile(values: Sequence[float]) -> float:
    """The 99th."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def test_the_figure_is_that_of_the_fault_not_of_other_work() -> None:
    rng = random.Random(7)
    quiet, late = ([rng.uniform(0.004, 0.008) for _ in range(1200)] for _ in range(2))
    late[100:500] = [seconds + 0.3 * rng.random() for seconds in late[100:500]]  # another program runs
    assert abs(_added(late, quiet, WINDOWS)) < ADDED_S
    slow = [seconds + 0.02 * (number % 40 == 0) for number, seconds in enumerate(quiet)]
    assert _added(slow, quiet, WINDOWS) > ADDED_S
