"""A state folder on a mount that hangs, or on a full disk, stops nothing but what must be written there."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster import Cluster, Running
from tests.hung_disk import HungDisk, beside_hung_disk, obstacle
from tests.security.keyed import Keys
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


def tree(node: Node) -> Any:
    headers = {"authorization": f"Bearer {node.keys.admin}"}
    return httpx.get(f"{node.url}/tree", headers=headers, timeout=DEADLINE_S).json()


def saved(node: Node) -> str:
    path = node.state / "root" / "state.json"
    return path.read_text() if path.exists() else ""
