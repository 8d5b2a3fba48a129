"""The demo with a simulated tree: every command of the first minutes, with real processes and sockets."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each demo starts six programs

SCRIPT = Path(__file__).parents[2] / "tools" / "demo.py"
DEADLINE_S = 60.0

TREE = """
version: 1
nodes:
  root: {{listen: "127.0.0.1:{0}"}}
  site-a: {{parent: root, listen: "127.0.0.1:{1}"}}
  site-b: {{parent: root, listen: "127.0.0.1:{2}"}}
engines:
  gpu-a: {{parent: site-a, kind: simulated, model: m, simulated: {{decode_tokens_per_s: 1000}}}}
  gpu-b: {{parent: site-b, kind: simulated, model: m, simulated: {{decode_tokens_per_s: 1000}}}}
"""


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        return [
            stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))).getsockname()[1] for _ in range(count)
        ]


@pytest.fixture
def ports() -> list[int]:
    return free_ports(3)


@pytest.fixture
def command(tmp_path: Path, ports: list[int]) -> list[str]:
    config = tmp_path / "demo.yaml"
    config.write_text(TREE.format(*ports))
    return [sys.executable, str(SCRIPT), "--config", str(config), "--log", str(tmp_path / "demo.log")]


def assert_nothing_listens(ports: list[int]) -> None:
    """After the demo, its ports are free again."""
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_with_once_it_ends_after_the_answer(command: list[str], ports: list[int], tmp_path: Path) -> None:
    result = subprocess.run([*command, "--once"], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "$ hierarchy up" in result.stdout
    assert "engine fetch" not in result.stdout  # nothing to fetch for a simulated engine
    assert "3 nodes · 2 engines · all up" in result.stdout
    assert re.search(r"^via site-[ab]/gpu-[ab] · m · \d+ tokens · ", result.stderr, re.M)
    assert "ended all 3 nodes" in (tmp_path / "demo.log").read_text()
    assert_nothing_listens(ports)


def test_it_runs_until_ctrl_c(command: list[str], ports: list[int]) -> None:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        stop_at = time.monotonic() + DEADLINE_S
        output = ""
        while "Ctrl-C ends it" not in output and (line := process.stdout.readline()):
            output += line
            assert time.monotonic() < stop_at
        assert "curl http://127.0.0.1:" in output
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert_nothing_listens(ports)


def test_a_taken_port_is_named(command: list[str], ports: list[int]) -> None:
    with socket.create_server(("127.0.0.1", ports[1])):
        result = subprocess.run([*command, "--once"], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert result.returncode == 1
    assert f"site-a cannot listen on port {ports[1]} of 127.0.0.1: Address already in use" in result.stdout
    assert_nothing_listens(ports)


def test_an_error_in_the_configuration_is_shown(command: list[str], ports: list[int], tmp_path: Path) -> None:
    config = tmp_path / "demo.yaml"
    config.write_text(config.read_text().replace("parent: root", "parent: nowhere"))
    result = subprocess.run([*command, "--once"], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert result.returncode == 1
    assert 'unknown parent "nowhere"' in result.stdout
    assert_nothing_listens(ports)
