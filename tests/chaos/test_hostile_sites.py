"""Sites with credentials that mean harm: their siblings, their parent and its parent go on as if nothing happened."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from tests.builders import site
from tests.chaos.conftest import Record
from tests.chaos.load import MODEL
from tests.chaos.processes import Process, Processes
from tests.hostile_messages import LINK, Attacker, Message
from tests.security.keyed import Keys, bearer
from tests.support import eventually, free_port

pytestmark = pytest.mark.slow

MORE_BYTES = 64 << 20  # of memory that one such site may cost each node above it
ENDED = ("background task", "is no longer whole", "it goes on")  # lines of a task that failed


class Evil(threading.Thread):
    """A site that joined with a token, and sends everything that the fuzzer makes, one message after the other."""

    def __init__(self, keys: Keys, parent: Process, name: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.statuses: Counter[int] = Counter()  # of the responses; 0: none
        self.stopped = threading.Event()
        self._rng = Random(seed)
        self._parent = parent
        self._shown = keys.token(name, parent.name)
        self._site, self._url = name, f"http://127.0.0.1:{free_port()}"
        self._attacker = Attacker(self._rng, name, self._url, f"secret-of-{name}")
        self._connection = http.client.HTTPConnection("127.0.0.1", parent.port, timeout=30.0)

    def join_tree(self) -> None:
        """Register properly, once."""
        assert self.send(self.good()) == 200

    def good(self) -> Message:
        """A registration without a fault."""
        page = site(self._site, url=self._url, secret=f"secret-of-{self._site}", seq=1)
        return Message("/register_worker", json.dumps(page).encode())

    def run(self) -> None:
        while not self.stopped.is_set():
            self.send(self._attacker.large() if self._rng.randrange(100) == 0 else self._attacker.message())

    def send(self, message: Message) -> int:
        """The status of the response; 0 if the connection broke."""
        fields = {"x-hierarchy-auth": message.secret, "content-type": "application/json"}
        if message.path == "/register_worker":
            fields |= bearer(self._shown)
        if message.path == LINK:
            fields |= {"connection": "upgrade", "upgrade": "hierarchy-link", "x-hierarchy-node": "site-1"}
        try:
            self._connection.request(*_target(message), message.body, fields)
            response = self._connection.getresponse()
            body = response.read() if response.status != 101 else b""
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self.statuses[0] += 1
            return 0
        self.statuses[response.status] += 1
        if message.path == "/register_worker" and response.status == 200:
            with contextlib.suppress(ValueError, TypeError):
                self._shown = json.loads(body).get("credential") or self._shown
        if response.status == 101:
            self._connection.close()
        return response.status


def _target(message: Message) -> tuple[str, str]:
    method, _, path = message.path.rpartition(" ")
    return method or "POST", path


class Tree:
    """root, mid below it, and two honest sites with engines below mid; all of them have keys."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.keys = Keys(folder)
        self._processes = processes
        self.root = self._node("root")
        self.mid = self._node("mid", self.root)
        self.sites = [self._node(f"site-{number}", self.mid, processes.engine(f"e{number}")) for number in (1, 2)]
        eventually(lambda: self.siblings_up() == 2, "the sites to join")

    def _node(self, name: str, parent: Process | None = None, engine: Process | None = None) -> Process:
        port, folder = free_port(), self.keys.folder
        argv = ["serve", "--node", name, "--port", str(port), "--host", "127.0.0.1"]
        argv += ["--state-dir", str(folder / "state")]
        for flag, file in (("--key-file", "tree.key"), ("--api-keys", "api.yaml"), ("--admin-keys", "admin.yaml")):
            argv += [flag, str(folder / file)]
        if parent is not None:
            token = self.keys.token_file(name, parent.name).removeprefix("file:")
            argv += ["--parent", parent.url, "--join-token-file", token]
        if engine is not None:
            argv += ["--engine", f"simulated={engine.url}"]
        return self._processes.add(name, argv, port)

    def siblings_up(self) -> int:
        """How many of the honest sites the root sees, and that they are up."""
        page = self.admin(self.root, "GET", "/tree").json()
        mid = page["children"].get("mid", {"children": {}})
        below: dict[str, Any] = mid["children"] if mid.get("state") == "up" else {}
        return sum(below.get(site.name, {}).get("state") == "up" for site in self.sites)

    def seen_by_mid(self) -> int:
        page = self.admin(self.mid, "GET", "/tree").json()["children"]
        return sum(page.get(site.name, {}).get("state") == "up" for site in self.sites)

    def admin(self, node: Process, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, node.url + path, headers=bearer(self.keys.admin), timeout=20.0, **options)

    def answers(self) -> bool:
        """Whether the root answers a client, through mid and a site."""
        body = {"model": MODEL, "prompt": "x", "max_tokens": 2}
        shown = bearer(self.keys.client)
        return httpx.post(f"{self.root.url}/v1/completions", json=body, headers=shown, timeout=20.0).status_code == 200


@pytest.mark.parametrize("count", [1, 5])
def test_sites_that_send_every_message_there_is(
    processes: Processes, full: bool, record: Record, tmp_path: Path, count: int
) -> None:
    """One site for ten minutes with `--full`; five together for a minute."""
    tree = Tree(processes, tmp_path)
    evils = [Evil(tree.keys, tree.mid, f"evil-{number}", number) for number in range(count)]
    for evil in evils:
        evil.join_tree()
    before = [node.rss_bytes() for node in (tree.root, tree.mid)]
    lost = failed = looks = 0
    seconds = (600.0 if count == 1 else 60.0) if full else 6.0
    for evil in evils:
        evil.start()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        looks += 1
        lost += 2 - tree.seen_by_mid()
        failed += not tree.answers()
        time.sleep(0.2)
    for evil in evils:
        evil.stopped.set()
    for evil in evils:
        evil.join(60.0)
    grown = [node.rss_bytes() - rss for node, rss in zip((tree.root, tree.mid), before, strict=True)]
    nodes = (tree.root, tree.mid, *tree.sites)
    ended = [line for node in nodes for line in node.log.read_text(errors="replace").splitlines() if _is_end(line)]
    statuses = sum((evil.statuses for evil in evils), Counter[int]())
    record(
        f"{statuses.total()} messages in {seconds:.0f} s, {looks} looks: {lost} siblings lost, {failed} requests "
        f"failed, {len(ended)} tasks ended, {max(grown) / 2**20:+.0f} MiB",
        target=f"0; 0; 0; {count * MORE_BYTES >> 20} MiB",
    )
    assert (lost, failed, ended) == (0, 0, [])
    assert max(grown) <= count * MORE_BYTES
    assert statuses[500] == 0, statuses
    assert statuses.total() > 100
    _check_revoked(tree, evils)


def _is_end(line: str) -> bool:
    return any(text in line for text in ENDED)


def _check_revoked(tree: Tree, evils: list[Evil]) -> None:
    """The operator can revoke each, whatever state it is in, and it does not come back."""
    for number, evil in enumerate(evils):
        tree.admin(tree.mid, "POST", "/admin/revoke", json={"node": f"evil-{number}"}).raise_for_status()
        path, page = evil._attacker.registration()
        assert evil.send(Message(path, json.dumps({**page, "worker_name": "http://127.0.0.1:1"}).encode())) in (
            401,
            422,
        )
    there = tree.admin(tree.mid, "GET", "/tree").json()["children"]
    assert [name for name in there if name.startswith("evil")] == []
    eventually(lambda: tree.siblings_up() == 2, "the root to see the sites")
