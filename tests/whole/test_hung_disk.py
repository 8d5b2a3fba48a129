"""A state folder on a mount that hangs, or on a full disk, stops nothing but what must be written there."""

from __future__ import annotations

import functools
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.builders import site
from tests.cluster import Cluster, Running
from tests.hung_disk import HungDisk, beside_hung_disk, obstacle
from tests.security.keyed import Keys, bearer
from tests.support import DEADLINE_S, eventually, free_port

START_S = 30.0
obstacle = functools.cache(obstacle)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if (reason := obstacle()) is not None:
        pytest.skip(reason)
    with Cluster() as running:
        yield running


class Node:
    """A root with keys, as a process of its own, with one engine and a state folder that can hang."""

    def __init__(self, keys: Keys, engine: Running, log: Path) -> None:
        self.keys, self.log, port = keys, log, free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.state = keys.folder / "state"
        self.state.mkdir(exist_ok=True)
        self.command = [
            *(sys.executable, "-m", "hierarchy", "serve", "--node", "root", "--host", "127.0.0.1", "--port", str(port)),
            *("--engine", f"simulated={engine.url}", "--state-dir", str(self.state), "--log-format", "json"),
            *("--key-file", str(keys.folder / "tree.key"), "--api-keys", str(keys.folder / "api.yaml")),
            *("--admin-keys", str(keys.folder / "admin.yaml")),
        ]

    @contextmanager
    def running(self, first: str = "") -> Iterator[HungDisk]:
        """The process, from when it serves."""
        with beside_hung_disk(self.state, self.command, self.log, first=first) as disk:
            eventually(self.serves, "the node to serve", START_S)
            yield disk

    def serves(self) -> bool:
        try:
            return self.chat() == 200
        except httpx.HTTPError:
            return False

    def chat(self) -> int:
        """The status of one request."""
        body = {"model": "simulated", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        headers = {"authorization": f"Bearer {self.keys.client}"}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=2.0).status_code

    def order(self, path: str, /, **message: Any) -> httpx.Response:
        """A command of an operator."""
        headers = {"authorization": f"Bearer {self.keys.admin}"}
        return httpx.post(f"{self.url}{path}", json=message, headers=headers, timeout=DEADLINE_S)

    def lines(self, part: str) -> list[str]:
        """The messages of its log with this text."""
        return [line for line in self.messages() if part in line]

    def messages(self) -> list[str]:
        """All of them."""
        return [json.loads(line)["message"] for line in self.log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path) -> Node:
    return Node(Keys(tmp_path), cluster.engine(), tmp_path / "log")


@pytest.mark.slow
def test_a_state_folder_that_hangs_stops_no_request_and_operators_are_told(node: Node) -> None:
    with node.running() as disk:
        disk.hang()
        assert [node.chat() for _ in range(20)] == [200] * 20
        for name in ("state.json", "shared.json"):
            said = functools.partial(node.lines, f"{name}: its file system has not answered for")
            eventually(said, f"the log to name {name}", START_S)
        assert [node.chat() for _ in range(20)] == [200] * 20
        revoked = node.order("/admin/revoke", node="site-a")
        assert revoked.status_code == 503
        assert "could not be saved" in revoked.json()["error"]["message"]
        child = next(iter(tree(node)["children"]))
        drained = node.order("/admin/drain", path=child, force=True).json()
        assert (drained["draining"], drained["kept"]) == (True, False)
        assert node.order("/admin/undrain", path=child).status_code == 200
        assert any("has not answered" in warning for warning in tree(node)["warnings"])
        assert len(node.lines("on a hung mount; no child can join")) == 1, "once"
        disk.release()
        eventually(lambda: node.lines("answers again after"), "the disk to be back")
        assert eventually(lambda: "site-a" in saved(node), "what was revoked to be saved")
        disk.hang()
        os.kill(disk.pid, signal.SIGTERM)
        eventually(lambda: not Path(f"/proc/{disk.pid}/exe").exists(), "it to end all the same", 20.0)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "check", "doctor", "up"])
def test_a_start_with_a_state_folder_that_hangs_is_one_clear_line(node: Node, tmp_path: Path, command: str) -> None:
    file = write_tree(node, tmp_path)
    done = run_beside(node, "hang", [command, str(file)])
    problem = f"{node.state / 'root'}: its file system has not answered for 5 s, as on a hung mount"
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == (1 if command in ("check", "doctor") else 2), said
    if command == "serve":
        assert said == (
            f"hierarchy: node root does not start: security.state_dir: {problem}; repair that mount, or name a path "
            "elsewhere"
        )
    assert "as on a hung mount" in said
    assert "repair that mount" in said


@pytest.mark.slow
def test_a_configuration_that_hangs_is_one_clear_line(node: Node) -> None:
    file = node.state / "tree.yaml"
    done = run_beside(node, "hang", ["check", str(file)])
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"hierarchy: {file}: its file system has not answered for 5 s, as on a hung mount; repair that mount, or name "
        "a path elsewhere"
    )


@pytest.mark.slow
def test_a_full_disk_is_said_at_the_start_and_once_and_stops_no_request(node: Node) -> None:
    with node.running("fill") as disk:
        said = functools.partial(
            node.lines, "state.json: cannot be written (No space left on device); no child can join"
        )
        eventually(said, "the log to say so")
        assert len(join(node)) == 1
        assert "No space left on device" in join(node).pop()
        assert len(said()) == 1, "once, and not once for each child"
        disk.release()
        eventually(lambda: not join(node), "a child to join")
        again = functools.partial(node.lines, "state.json: can be written again;")
        eventually(again, "the log to say that it can")
        assert len(again()) == 1


@pytest.mark.slow
def test_a_full_disk_is_found_before_the_start(node: Node, tmp_path: Path) -> None:
    file = write_tree(node, tmp_path)
    checked = run_beside(node, "fill", ["check", str(file)])
    assert (checked.returncode, checked.stdout.startswith("OK")) == (0, True)
    assert "No space left on device, so its state cannot be saved" in checked.stderr
    examined = run_beside(node, "fill", ["doctor", str(file)])
    assert "No space left on device, so its state cannot be saved" in " ".join(examined.stdout.split())


def write_tree(node: Node, folder: Path) -> Path:
    """A configuration like the node's."""
    security = {"key": f"file:{node.keys.folder / 'tree.key'}", "state_dir": str(node.state)}
    engine = {"kind": "openai", "url": "http://127.0.0.1:9", "models": ["m"], "parent": "root"}
    nodes = {"root": {"listen": "127.0.0.1:0", "security": security}}
    file = folder / "tree.yaml"
    file.write_text(json.dumps({"version": 1, "nodes": nodes, "engines": {"gpu": engine}}))
    return file


def run_beside(node: Node, first: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """The result of a command beside the state folder."""
    command = [sys.executable, "-m", "hierarchy", *arguments]
    inside = ["unshare", "-Urm", sys.executable, "-m", "tests.hung_disk", "--wait", str(node.state), *command]
    environ = {**os.environ, "HUNG_DISK_FIRST": first, "COLUMNS": "400"}
    return subprocess.run(inside, capture_output=True, text=True, timeout=START_S, env=environ, check=False)


def join(node: Node) -> set[str]:
    """Why a child with a new token could not join; empty if it could."""
    name = f"site-{secrets.token_hex(3)}"
    message = site(name, instance=name, secret=name, url="http://127.0.0.1:9")
    response = httpx.post(
        f"{node.url}/register_worker", json=message, headers=bearer(node.keys.token(name)), timeout=DEADLINE_S
    )
    return set() if response.status_code == 200 else {response.json()["error"]["message"]}


def tree(node: Node) -> Any:
    headers = {"authorization": f"Bearer {node.keys.admin}"}
    return httpx.get(f"{node.url}/tree", headers=headers, timeout=DEADLINE_S).json()


def saved(node: Node) -> str:
    path = node.state / "root" / "state.json"
    return path.read_text() if path.exists() else ""
