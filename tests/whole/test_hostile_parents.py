"""Whatever a parent's address answers, the node asks again, and registers as soon as there is a parent."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.security.keyed import Keys
from tests.support import eventually, running_app

GOOD: dict[str, Any] = {"node": "root", "instance": "root-1", "version": "1", "interval_s": 0.2}
BAD: dict[str, bytes] = {
    "deep": b'{"node": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a huge number": b'{"node": "root", "instance": "root-1", "interval_s": 1' + b"0" * 400 + b"}",
    "a longer number": b'{"node": "root", "instance": "root-1", "wanted": 1' + b"0" * 10_000 + b"}",
    "a head in a credential": json.dumps(GOOD | {"credential": "x\r\nx-evil: 1"}).encode(),
    "a head in a name": json.dumps(GOOD | {"node": "x\r\nx-evil: 1"}).encode(),
    "half of a character": b'{"node": "\\ud800", "instance": "root-1"}',
    "no text": b"\xff\xfe{}",
    "a list": b"[]",
    "too much": b" " * (8 << 20),
}


class Parent:
    """Answers each registration with the next of these bodies, and then as a parent does."""

    def __init__(self, *bodies: tuple[bytes, bytes]) -> None:
        self._bodies = list(bodies)
        self.reports: list[dict[str, Any]] = []
        self.fields: list[tuple[bytes, bytes]] = []  # of all requests

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        self.fields += scope["headers"]
        coding, content = b"identity", json.dumps(GOOD).encode()
        if scope["path"] == "/receive_heart_beat":
            self.reports.append(json.loads(body))
            content = b'{"exist": true}'
        elif self._bodies:
            coding, content = self._bodies.pop(0)
        head = [(b"content-type", b"application/json"), (b"content-encoding", coding)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": content})


@pytest.mark.parametrize("kind", [*BAD, "a bomb"])
def test_a_node_outlives_whatever_its_parent_says(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    keys = Keys(tmp_path)
    bomb = gzip.compress(gzip.compress(b" " * (64 << 20)))
    parent = Parent((b"gzip, gzip", bomb) if kind == "a bomb" else (b"identity", BAD.get(kind, b"")))
    with running_app(parent) as url:
        node = cluster.node("site-a", parents=(url,), settings=keys.settings(join_token=keys.token_file("site-a")))
        eventually(lambda: len(parent.reports) >= 2, "the node to report")
        assert node.node.uplinks[0].registered
        cluster.stop(node)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert b"x-evil" not in {name for name, _ in parent.fields}
