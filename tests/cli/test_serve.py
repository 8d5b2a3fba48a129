"""`hierarchy serve` as a user meets it: one line and status 2 for bad input, status 0 after SIGTERM."""

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

from tests.support import eventually, free_port

COMMAND = [sys.executable, "-m", "hierarchy", "serve"]
CONFIGS = Path(__file__).parents[2] / "configs"


def refused(*arguments: str) -> str:
    """Run it; it must end with status 2 and nothing but its one line."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--dispatch-method", "fastest"), "fastest"),
        (("/no/such/file.yaml", "--node", "x"), "/no/such/file.yaml"),
        (("--engine", "vllm=gopher://x"), "gopher"),
        (("--engine", "unheard=http://127.0.0.1:1"), "unheard"),
        (("--parent", "nonsense"), "nonsense"),
        (("--log-format", "xml"), "xml"),
        ((str(CONFIGS / "two-tiers.yaml"), "--node", "nobody"), "nobody"),
        ((str(CONFIGS / "two-tiers.yaml"),), "--node"),
        ((str(CONFIGS / "two-tiers.yaml"), "--node", "root", "--port", "1"), "--port"),
    ],
)
def test_bad_input_gets_one_clear_line(arguments: tuple[str, ...], words: str) -> None:
    said = refused(*arguments)
    assert words in said
    assert len(said.strip().splitlines()) == 1, said


def test_bad_yaml_gets_a_line_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text("version: 1\nnodes: {root: {listen: [}\n")
    assert f"{path}:2" in refused(str(path), "--node", "root")


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}" in refused("--host", "127.0.0.1", "--port", port)


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


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_status_0(process: subprocess.Popen[str], port: int, number: signal.Signals) -> None:
    eventually(lambda: answers(port), "it to answer")
    process.send_signal(number)
    assert process.wait(10) == 0
    assert process.stderr is not None
    lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert lines
    assert all(line["node"] == "me" for line in lines)


def test_it_serves_flags_alone(process: subprocess.Popen[str], port: int) -> None:
    eventually(lambda: answers(port), "it to answer")
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{url}/health").json()["node"] == "me"
    assert httpx.get(f"{url}/ready").status_code == 503
    assert httpx.get(f"{url}/test_connection").json() == "success"
