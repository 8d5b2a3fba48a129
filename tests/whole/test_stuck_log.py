"""A log that nobody reads, such as a pipe to a stopped process, stops neither requests nor operators nor the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.cluster import Cluster, chat
from tests.support import DEADLINE_S, eventually, free_port

START_S = 30.0
COMMAND = [sys.executable, "-m", "hierarchy"]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@contextmanager
def running(command: list[str], stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=stderr, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def serves(url: str, model: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/v1/models", timeout=DEADLINE_S).json()["data"][0]["id"] == model)
    except (httpx.HTTPError, LookupError):
        return False


def test_a_node_whose_log_is_not_read_starts_serves_obeys_and_ends(cluster: Cluster) -> None:
    engine, url = cluster.engine(models=("m",)), f"http://127.0.0.1:{(port := free_port())}"
    source, target = os.pipe()
    os.set_blocking(target, False)
    filled = 0
    try:
        while True:
            filled += os.write(target, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(target, True)
    command = [*COMMAND, "serve", "--host", "127.0.0.1", "--port", str(port), "--engine", f"simulated={engine.url}"]
    with running(command, target) as node:
        os.close(target)
        eventually(lambda: serves(url, "m"), "the node to serve", START_S)
        (name,) = httpx.get(f"{url}/tree").json()["children"]
        for action in ("drain", "undrain"):
            done = httpx.post(f"{url}/admin/{action}", json={"path": name, "force": True}, timeout=DEADLINE_S)
            assert done.status_code == 200, done.text
        assert chat(url, "m").status_code == 200
        node.terminate()
        assert node.wait(DEADLINE_S) == 0, "the last lines have a limit on their time"
        os.set_blocking(source, False)
        assert len(os.read(source, 2 * filled)) == filled
    os.close(source)


@pytest.mark.slow
def test_what_a_node_logged_comes_in_its_order_when_its_reader_is_back(cluster: Cluster) -> None:
    engine, url = cluster.engine(models=("m",)), f"http://127.0.0.1:{(port := free_port())}"
    command = [*COMMAND, "serve", "--host", "127.0.0.1", "--port", str(port), "--engine", f"simulated={engine.url}"]
    with running([*command, "--log-format", "json"], subprocess.PIPE) as node:
        eventually(lambda: serves(url, "m"), "the node to serve", START_S)
        (name,) = httpx.get(f"{url}/tree").json()["children"]
        for number in range(300):  # far more than a pipe holds
            action = ("drain", "undrain")[number % 2]
            page = {"path": name, "force": True, "reason": f"number {number} " + 400 * "x"}
            assert httpx.post(f"{url}/admin/{action}", json=page, timeout=DEADLINE_S).status_code == 200
        node.terminate()
        assert node.stderr is not None
        lines = [line for line in node.stderr.read().decode().splitlines() if '"hierarchy.audit"' in line]
        assert node.wait(DEADLINE_S) == 0
        assert [f"number {number} " in line for number, line in enumerate(lines)] == [True] * 300
        node.stderr.close()


@pytest.mark.slow
def test_nodes_serve_while_the_process_that_prints_their_logs_is_stopped(cluster: Cluster, tmp_path: Path) -> None:
    engine, port = cluster.engine(models=("m",)), free_port()
    url = f"http://127.0.0.1:{port}"
    config = tmp_path / "tree.yaml"
    config.write_text(
        f"version: 1\ndefaults: {{access_log: true, grace_s: 0.2}}\nnodes: {{root: {{listen: '127.0.0.1:{port}'}}}}\n"
        f"engines: {{gpu: {{parent: root, kind: simulated, url: '{engine.url}'}}}}\n"
    )
    with (tmp_path / "log").open("wb") as log, running([*COMMAND, "up", str(config)], log.fileno()) as up:
        eventually(lambda: serves(url, "m"), "the node to serve", START_S)
        up.send_signal(signal.SIGSTOP)
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        with httpx.Client(timeout=DEADLINE_S) as client:  # more lines than the pipe to `up` holds
            for _ in range(900):
                assert client.post(f"{url}/v1/chat/completions", json=body).status_code == 200
        up.send_signal(signal.SIGCONT)
        up.terminate()
        assert up.wait(DEADLINE_S) == 0
    assert (tmp_path / "log").read_text().count(" access ") == 900
