"""`hierarchy serve`: one line and status 2 for bad input, status 0 after a signal."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.program import fails
from tests.support import eventually, free_port

COMMAND = [sys.executable, "-m", "hierarchy", "serve"]
START_S = 30.0
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--dispatch-method", "fastest"), "fastest"),
        (("/no/such/file.yaml", "--node", "x"), "/no/such/file.yaml"),
        (("--engine", "vllm=gopher://x"), "gopher"),
        (("--engine", "unheard=http://127.0.0.1:1"), "unheard"),
        (("--parent", "nonsense"), "nonsense"),
        (("--log-format", "xml"), "xml"),
        ((str(CONFIGS / "two-tiers.yaml"), "--node", "no-such"), "no-such"),
        ((str(CONFIGS / "two-tiers.yaml"),), "--node"),
        ((str(CONFIGS / "two-tiers.yaml"), "--node", "root", "--port", "1"), "--port"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], part: str) -> None:
    assert part in fails("serve", *arguments, status=2)


def test_bad_yaml_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text("version: 1\nnodes: {root: {listen: [}\n")
    assert f"{path}:2" in fails("serve", path, "--node", "root", status=2)


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [*COMMAND, "--host", "127.0.0.1", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def process(port: int) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, "--host", "127.0.0.1", "--port", str(port), "--log-format", "json", "--node", "me"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def responds(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0(process: subprocess.Popen[str], port: int, number: signal.Signals) -> None:
    eventually(lambda: responds(port), "the node to respond", START_S)
    process.send_signal(number)
    assert process.wait(10) == 0
    assert process.stderr is not None
    lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert lines
    assert all(line["node"] == "me" for line in lines)


def test_it_serves_from_flags_alone(process: subprocess.Popen[str], port: int) -> None:
    eventually(lambda: responds(port), "the node to respond", START_S)
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{url}/health").json()["node"] == "me"
    assert httpx.get(f"{url}/ready").status_code == 503
    assert httpx.get(f"{url}/test_connection").json() == "success"
