"""The keys that commands show: from the environment or a file, to a real node that asks for them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from hierarchy.cli import app
from hierarchy.cli.admin import ADMIN_KEY, admin_client, bearer
from hierarchy.errors import UsageError
from hierarchy.security.secret import write_private_file
from tests.cluster import Cluster
from tests.security.keyed import Keys
from tests.support import eventually
from tests.tools.test_show_tree import show_tree


def test_a_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    write_private_file(path, "from-file\n")
    monkeypatch.delenv(ADMIN_KEY, raising=False)
    assert bearer(None, ADMIN_KEY) == {}
    monkeypatch.setenv(ADMIN_KEY, "from-env")
    assert bearer(None, ADMIN_KEY) == {"authorization": "Bearer from-env"}
    assert bearer(path, ADMIN_KEY) == {"authorization": "Bearer from-file"}
    monkeypatch.setenv(ADMIN_KEY, "two\nlines")
    with pytest.raises(UsageError, match=ADMIN_KEY):
        bearer(None, ADMIN_KEY)


def test_chat_and_show_tree_show_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(tmp_path)
    monkeypatch.delenv(ADMIN_KEY, raising=False)
    with Cluster() as cluster:
        root = cluster.node("root", engines=(cluster.engine().url,), settings=keys.settings())
        eventually(lambda: root.node.ready, "the engine")
        answered = CliRunner().invoke(app, ["chat", root.url, "hello"], env={"HIERARCHY_API_KEY": keys.client})
        assert answered.exit_code == 0, answered.output
        refused = CliRunner().invoke(app, ["chat", root.url, "hello"])
        assert refused.exit_code == 1
        assert "no API key was sent" in refused.output
        with httpx.Client() as client, pytest.raises(show_tree.CannotReadError, match="wants an admin key"):
            show_tree.fetch(client, root.url)
        monkeypatch.setenv(ADMIN_KEY, keys.admin)
        with admin_client(root.url, None) as client:
            assert show_tree.fetch(client, root.url)["name"] == "root"
