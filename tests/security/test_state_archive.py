"""A state folder in one file and back, and what an archive must not do."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hierarchy.errors import UsageError
from hierarchy.runtime.files import Hold, locked, write_private_file
from hierarchy.security import state_archive
from hierarchy.security.state import RUNNING
from hierarchy.security.state_archive import backup, restore
from hierarchy.security.token_store import TokenStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The state of a parent that is a child, too."""
    store = TokenStore(tmp_path / "state" / "root" / "state.json")
    store.use("t", 2e9, "p")
    store.revoke("site-a")
    write_private_file(store.path.with_name("credential"), "c\n")
    return store.path.parent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_everything_comes_back_with_mode_0600(folder: Path, tmp_path: Path) -> None:
    archive, new = tmp_path / "root.state", tmp_path / "new" / "root"
    assert backup(folder, "root", archive).files == ["credential", "state.json"]
    assert archive.stat().st_mode & 0o777 == 0o600
    summary, kept = restore(new, "root", archive)
    assert (summary.node, summary.files, kept) == ("root", ["credential", "state.json"], None)
    for name in names(folder):
        assert (new / name).read_bytes() == (folder / name).read_bytes()
        assert (new / name).stat().st_mode & 0o777 == 0o600
    assert new.stat().st_mode & 0o777 == 0o700
    assert TokenStore(new / "state.json").is_revoked("site-a", 1.0)


def test_a_folder_that_holds_state_is_replaced_only_with_force_and_kept(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "root.state"
    backup(folder, "root", archive)
    with pytest.raises(UsageError, match=r"is not empty: it holds credential, state.json with 1 used tokens and 1 rev"):
        restore(folder, "root", archive)
    later = archive.stat().st_mtime + 60
    TokenStore(folder / "state.json").revoke("site-b")
    os.utime(folder / "state.json", (later, later))
    with pytest.raises(UsageError, match=r"is newer than the archive: .* 2 revocations.*; add --force to replace it"):
        restore(folder, "root", archive)
    _, kept = restore(folder, "root", archive, force=True)
    assert kept is not None
    assert not TokenStore(folder / "state.json").is_revoked("site-b", 1.0)
    assert TokenStore(kept / "state.json").is_revoked("site-b", 1.0)
    assert names(kept) == names(folder)


def test_the_state_of_a_running_node_is_not_replaced_even_with_force(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "root.state"
    backup(folder, "root", archive)
    one, two = Hold(folder / RUNNING), Hold(folder / RUNNING)  # two replicas that share the folder
    for running in (one, two):
        for force in (False, True):
            with pytest.raises(UsageError, match='node "root" is running with it; stop the node first'):
                restore(folder, "root", archive, force=force)
        running.release()
    restore(folder, "root", archive, force=True)


def test_a_backup_waits_for_a_change_that_is_being_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_archive, "LOCK_TIMEOUT_S", 0.05)
    with locked(folder / "state.lock"), pytest.raises(UsageError, match="another process keeps it locked"):
        backup(folder, "root", tmp_path / "root.state")


def test_a_backup_replaces_no_file_and_makes_no_empty_archive(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "root.state"
    archive.write_text("a tree key")
    with pytest.raises(UsageError, match="exists already"):
        backup(folder, "root", archive)
    assert archive.read_text() == "a tree key"
    backup(folder, "root", archive, force=True)
    for empty in (tmp_path / "state" / "site", folder.parent):
        with pytest.raises(UsageError, match="holds no state"):
            backup(empty, "site", tmp_path / "other.state")
    with pytest.raises(UsageError, match="check its folder"):
        backup(folder, "root", archive / "below-a-file")


def test_the_archive_of_another_node_needs_force(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "root.state"
    backup(folder, "root", archive)
    with pytest.raises(UsageError, match='is the state of node "root", not of "root-b"'):
        restore(tmp_path / "new", "root-b", archive)
    restore(tmp_path / "new", "root-b", archive, force=True)


def archive_of(path: Path, *members: tuple[str, bytes], **manifest: object) -> Path:
    """An archive with these members; its manifest says that they are right."""
    hashes = {name: state_archive._hash(content) for name, content in members}
    head = {"format": 1, "node": "root", "made": 1.0, "version": "9", "files": hashes, **manifest}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in (("manifest.json", json.dumps(head).encode()), *members):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            if content == b"link":
                entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("members", "manifest", "problem"),
    [
        ([("../outside", b"x")], {}, "not a complete archive"),
        ([("/tmp/outside", b"x")], {}, "not a complete archive"),
        ([(".hidden", b"x")], {}, "not a complete archive"),
        ([("state.json", b"link")], {}, "not a complete archive"),
        ([("credential", b"x")], {"files": {"credential": "0"}}, "its files were changed"),
        ([("credential", b"x")], {"files": {}}, "its files were changed"),
        ([], {"files": {"state.json": "0"}}, "its files were changed"),
        ([], {"format": 2}, "was made by release 9"),
        ([], {"files": 3}, "not a complete archive"),
        ([("state.json", b"{")], {}, "its state.json is damaged"),
    ],
)
def test_nothing_is_written_from_a_bad_archive(
    tmp_path: Path, members: list[tuple[str, bytes]], manifest: dict[str, object], problem: str
) -> None:
    archive = archive_of(tmp_path / "root.state", *members, **manifest)
    with pytest.raises(UsageError, match=problem):
        restore(tmp_path / "new", "root", archive)
    assert not (tmp_path / "new").exists()


@given(st.binary(max_size=200) | st.binary(max_size=200).map(gzip.compress))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_file_is_one_clear_error(tmp_path: Path, data: bytes) -> None:
    archive = tmp_path / "root.state"
    archive.write_bytes(data)
    with pytest.raises(UsageError, match="not a complete archive"):
        restore(tmp_path / "new", "root", archive)


@given(st.floats(0, 1, exclude_max=True), st.binary(max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_archive_is_never_restored_in_part(folder: Path, tmp_path: Path, where: float, put: bytes) -> None:
    archive, new = tmp_path / "root.state", tmp_path / "new"
    backup(folder, "root", archive, force=True)
    whole = archive.read_bytes()
    place = int(where * len(whole))
    archive.write_bytes(whole[:place] + put + whole[place + 1 :])
    try:
        restore(new, "root", archive, force=True)
    except UsageError:
        assert not new.exists() or names(new) == names(folder)
    else:  # a byte that means nothing
        assert all((new / name).read_bytes() == (folder / name).read_bytes() for name in names(folder))


def test_an_archive_that_is_missing_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"root.state: No such file"):
        restore(tmp_path / "new", "root", tmp_path / "root.state")
