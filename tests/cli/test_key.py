"""`hierarchy key`: files of API keys."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from hierarchy.security.keys import KeyFile, read_keys
from tests.cli.program import fails, succeeds


def test_keys_are_created_listed_and_revoked(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.yaml")
    first = succeeds("key", "create", "--name", "alice", "--models", "a,b", "--file", file)
    second = succeeds("key", "create", "--name", "alice", "--file", file)
    assert "key revoke" in fails("key", "create", "--name", "alice", "--file", file, status=2)
    listed = succeeds("key", "list", "--file", file).splitlines()
    assert [line.split()[1] for line in listed] == ["alice", "alice"]
    assert listed[0].endswith("a,b")
    assert first not in "".join(listed)
    succeeds("key", "revoke", "--file", file, "--id", listed[0].split()[0])
    keys = KeyFile(Path(file))
    assert keys.find(first.encode()) is None
    assert keys.find(second.encode()) is not None
    assert "either --name or --id" in fails("key", "revoke", "--file", file, status=2)


def test_a_key_goes_into_a_file_of_its_owner(tmp_path: Path) -> None:
    keys, out = tmp_path / "keys.yaml", tmp_path / "alice.key"
    assert succeeds("key", "create", "--name", "alice", "--file", keys, "--out", out) == ""
    assert out.stat().st_mode & 0o777 == 0o600
    caller = KeyFile(keys).find(out.read_bytes().strip())
    assert caller is not None
    assert caller.name == "alice"


@pytest.mark.parametrize("where", ["taken.key", "keys.yaml", "no-folder/../taken.key", "/dev/null/key"])
def test_a_key_that_could_not_be_delivered_is_not_created(tmp_path: Path, where: str) -> None:
    keys, taken = tmp_path / "keys.yaml", tmp_path / "taken.key"
    taken.write_text("another secret")
    (tmp_path / "no-folder").mkdir()
    fails("key", "create", "--name", "alice", "--file", keys, "--out", tmp_path / where, status=2)
    assert not keys.exists() or read_keys(keys) == []
    assert taken.read_text() == "another secret"


def test_a_key_expires(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    key = succeeds("key", "create", "--name", "alice", "--file", file, "--expires", "90d")
    succeeds("key", "create", "--name", "bob", "--file", file, "--expires", "2999-01-31")
    listed = succeeds("key", "list", "--file", file).splitlines()
    assert "  expires 20" in listed[0]
    assert listed[1].endswith("  expires 2999-01-31 00:00 UTC")
    assert KeyFile(file).find(key.encode()) is not None
    later = time.time() + 91 * 86400
    assert KeyFile(file, lambda: later).find(key.encode()) is None


@pytest.mark.parametrize("when", ["", "soon", "0d", "2001-01-01", "999999999d", "12", "2027-13-01"])
def test_a_bad_expiry_is_one_line(tmp_path: Path, when: str) -> None:
    file = tmp_path / "keys.yaml"
    assert "--expires" in fails("key", "create", "--name", "alice", "--file", file, "--expires", when, status=2)
    assert not file.exists()


def test_json_for_programs(tmp_path: Path) -> None:
    file, out = tmp_path / "keys.yaml", tmp_path / "out.key"
    arguments = ("key", "create", "--name", "alice", "--file", file, "--models", "a,b", "--json")
    created = json.loads(succeeds(*arguments, "--expires", "2999-01-31"))
    assert created["key"].startswith("hk-")
    assert (created["name"], created["models"], created["expires"]) == (
        "alice", ["a", "b"], "2999-01-31T00:00:00+00:00",
    )  # fmt: skip
    written = json.loads(succeeds(*arguments, "--out", out))
    assert written == {
        "file": str(out),
        "name": "alice",
        "models": ["a", "b"],
        "expires": None,
        "paths": None,
        "require": None,
    }
    rows = json.loads(succeeds("key", "list", "--file", file, "--json"))["keys"]
    assert [(row["name"], row["models"], row["expired"]) for row in rows] == [("alice", ["a", "b"], False)] * 2
    revoked = json.loads(succeeds("key", "revoke", "--file", file, "--name", "alice", "--json"))["revoked"]
    assert [row["id"] for row in revoked] == [row["id"] for row in rows]
