"""`hierarchy key`: files of API keys."""

from __future__ import annotations

from pathlib import Path

from hierarchy.security.keys import KeyFile
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
