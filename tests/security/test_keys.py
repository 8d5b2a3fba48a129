"""API keys: creating, finding, exchanging and revoking them, and reading changed files again."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import UsageError
from hierarchy.labels import Requirement
from hierarchy.runtime.files import locked
from hierarchy.security.keys import KeyFile, create_key, digest, read_keys, revoke_keys
from tests.clocks import Clock
from tests.support import DEADLINE_S, at_once


def test_only_the_hash_of_a_key_is_stored_and_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    key = create_key(path, "alice", ["a", "b"])
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    caller = KeyFile(path).find(key.encode())
    assert caller is not None
    assert caller.name == "alice"
    assert [caller.may_use(model) for model in ("a", "b", "c")] == [True, True, False]
    assert create_key(path, "bob", None) != key
    assert len(KeyFile(path)) == 2


@given(st.binary(max_size=80))
def test_no_other_key_is_found(tmp_path_factory: pytest.TempPathFactory, shown: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "other.yaml"
    if not path.exists():
        create_key(path, "alice", None)
    keys = KeyFile(path)
    assert keys.find(shown) is None
    assert keys.find(read_keys(path)[0].sha256.encode()) is None  # a hash is not a key


def test_two_keys_are_valid_at_once_and_a_third_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    old, new = create_key(path, "alice", None), create_key(path, "alice", None)
    keys = KeyFile(path)
    assert keys.find(old.encode())
    assert keys.find(new.encode())
    with pytest.raises(UsageError, match=f"hierarchy key revoke --file {path} --id {digest(old.encode())[:8]}"):
        create_key(path, "alice", None)
    assert [entry.name for entry in revoke_keys(path, key_id=digest(old.encode())[:8])] == ["alice"]
    assert at_once(keys.refresh())
    assert keys.find(old.encode()) is None
    assert keys.find(new.encode())
    assert not at_once(keys.refresh())
    with pytest.raises(UsageError, match="no such key"):
        revoke_keys(path, name="bob")


@pytest.mark.parametrize(
    "text", ["keys: [", "keys: 3", "[1]", "keys: [{name: a}]", "keys: [{name: a, sha256: xy}]", "\x00"]
)
def test_a_malformed_file_is_refused_and_a_running_node_keeps_the_keys_it_had(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.yaml"
    key = create_key(path, "alice", None)
    keys = KeyFile(path)
    path.write_text(text)
    with pytest.raises(UsageError, match=str(path)) as caught:
        KeyFile(path)
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.ERROR):
        assert not at_once(keys.refresh())
        assert not at_once(keys.refresh())
    assert len(caplog.records) == 1
    assert keys.find(key.encode())


@given(st.text(max_size=60))
def test_any_text_is_either_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, "utf-8", "surrogatepass")
    path.chmod(0o600)
    with contextlib.suppress(UsageError):
        read_keys(path)


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    create_key(path, "alice", None)
    path.chmod(0o662)
    with pytest.raises(UsageError, match=r"mode 0662.*chmod 600"):
        KeyFile(path)


def test_a_deleted_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    key = create_key(path, "alice", None)
    keys = KeyFile(path)
    os.unlink(path)  # noqa: PTH108
    assert not at_once(keys.refresh())
    assert keys.find(key.encode())


def test_keys_that_are_created_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    names = ["alice", "bob", "carol"]
    threads = [threading.Thread(target=create_key, args=(path, name, None), daemon=True) for name in names]
    with locked(tmp_path / "keys.yaml.lock"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(0.05)
            assert thread.is_alive()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(entry.name for entry in read_keys(path)) == names


def test_revoking_in_a_missing_file_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read \(No such file"):
        revoke_keys(tmp_path / "no" / "keys.yaml", name="alice")
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_void_from_its_expiry_on_without_a_change_of_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "keys.yaml", Clock()
    clock.now = 4_000_000_000.0  # Unix seconds
    end = datetime.fromtimestamp(clock.now + 60, UTC)
    short, lasting = create_key(path, "alice", None, expires=end), create_key(path, "bob", None)
    keys = KeyFile(path, clock)
    clock.now += 59
    assert not keys.expire()
    assert keys.find(short.encode())
    clock.now += 1
    with caplog.at_level(logging.INFO):
        assert keys.expire()  # so that what was remembered of the caller is forgotten
        assert not keys.expire()
    assert keys.find(short.encode()) is None
    assert keys.find(lasting.encode())
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: the key {digest(short.encode())[:8]} of alice has expired"
    ]


def test_an_expired_key_leaves_room_for_another(tmp_path: Path) -> None:
    path, now = tmp_path / "keys.yaml", datetime.now(UTC)
    for _ in range(2):
        create_key(path, "alice", None, now - timedelta(days=3), expires=now - timedelta(days=1))
    third = create_key(path, "alice", None)
    assert KeyFile(path).find(third.encode())


@pytest.mark.parametrize(
    "written", ["2027-01-31T00:00:00Z", "'2027-01-31T00:00:00Z'", "2027-01-31 00:00:00", "2027-01-31T01:00:00+01:00"]
)
def test_an_expiry_written_by_hand_is_in_utc_unless_it_names_a_zone(tmp_path: Path, written: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys:\n- name: alice\n  sha256: '{'0' * 64}'\n  expires: {written}\n")
    path.chmod(0o600)
    assert read_keys(path)[0].void_at == datetime(2027, 1, 31, tzinfo=UTC).timestamp()


def test_a_few_lines_of_aliases_do_not_hold_whoever_reads_the_keys(tmp_path: Path) -> None:
    """Each level merges the one before nine times: twelve levels would take hours."""
    lines = ["x: &x {a: 1}", "y0: &y0 {b0: 1}"]
    lines += [f"y{n}: &y{n} {{<<: [{', '.join([f'*y{n - 1}'] * 9)}], b{n}: 1}}" for n in range(1, 12)]
    path = tmp_path / "keys.yaml"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="is not a file of keys"):
        read_keys(path)


def test_a_key_requires_labels(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    key = create_key(path, "ann", None, require={"trust": "own", "region": "eu"})
    caller = KeyFile(path).find(key.encode())
    assert caller is not None
    assert caller.require == Requirement({"region": "eu", "trust": "own"})
    second = create_key(path, "bob", None)
    other = KeyFile(path).find(second.encode())
    assert other is not None
    assert other.require is None
    assert [entry.require or None for entry in read_keys(path)] == [{"trust": "own", "region": "eu"}, None]


@pytest.mark.parametrize(
    "require", ["", "{}", "eu", "[region]", "{region: 1}", "{region: }", "{re gion: eu}", "{region: eu/us}"]
)
def test_a_slip_in_what_a_key_requires_does_not_allow_more(tmp_path: Path, require: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys:\n- name: ann\n  sha256: {'0' * 64}\n  require: {require}\n")
    path.chmod(0o600)
    with pytest.raises(UsageError, match=r"keys\.yaml: "):
        read_keys(path)
