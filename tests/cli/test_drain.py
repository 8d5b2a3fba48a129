"""`hierarchy drain` and `hierarchy undrain`, at a real node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.program import fails, program
from tests.cluster import Cluster, Running
from tests.support import eventually, free_port, running_app


@pytest.fixture(scope="module")
def root() -> Iterator[Running]:
    with Cluster() as cluster:
        root = cluster.node("root", engines=(cluster.engine().url,))
        eventually(lambda: root.node.ready, "the engine")
        yield root


def test_drain_and_undrain(root: Running) -> None:
    child = root.node.registry.children["root-1"]
    for command, message, draining in (
        ("drain", f"root-1 gets no new requests; to undo: hierarchy undrain root-1 --url {root.url}", True),
        ("undrain", "root-1 gets requests again", False),
    ):
        result = program(command, "root-1", "--url", root.url)
        assert (result.status, result.stdout.strip()) == (0, message)
        assert (child.drain is not None) is draining


def test_a_refusal_is_one_line_and_status_1_and_an_unreachable_node_status_2(root: Running) -> None:
    dead = f"http://127.0.0.1:{free_port()}"

    async def other(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"<html>"})  # type: ignore[operator]

    with running_app(other) as elsewhere:
        for url, status, message in (
            (root.url, 1, "answered 404: no child 'x' at root; children here: root-1"),
            (elsewhere, 1, "is this a node's URL?"),
            (dead, 2, "cannot reach"),
        ):
            assert message in fails("drain", "x", "--url", url, status=status)
