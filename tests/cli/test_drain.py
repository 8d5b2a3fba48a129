"""`hierarchy drain` and `undrain` at a real node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from hierarchy.cli import app
from tests.cluster import Cluster, Running
from tests.support import eventually, free_port, running_app


@pytest.fixture(scope="module")
def root() -> Iterator[Running]:
    with Cluster() as cluster:
        root = cluster.node("root", engines=(cluster.engine().url,))
        eventually(lambda: root.node.ready, "the engine")
        yield root


def test_draining_and_its_end(root: Running) -> None:
    child = root.node.registry.children["root-1"]
    for command, words, draining in (
        ("drain", "root-1 gets no new requests; `hierarchy undrain root-1` ends that", True),
        ("undrain", "root-1 gets requests again", False),
    ):
        result = CliRunner().invoke(app, [command, "root-1", "--url", root.url])
        assert (result.exit_code, result.stdout.strip()) == (0, words)
        assert child.draining is draining


def test_what_goes_wrong_is_one_line_and_status_1(root: Running) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"

    async def other(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"<html>"})  # type: ignore[operator]

    with running_app(other) as elsewhere:
        for url, words in (
            (root.url, "answered 404: no child 'x' at root; children here: root-1"),
            (nobody, "cannot reach"),
            (elsewhere, "is this a node's URL?"),
        ):
            result = CliRunner().invoke(app, ["drain", "x", "--url", url])
            assert result.exit_code == 1
            assert words in result.stderr
            assert result.stderr.count("\n") == 1
