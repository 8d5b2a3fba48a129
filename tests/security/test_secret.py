from __future__ import annotations

import os
from pathlib import Path

import pytest

from hierarchy.errors import UsageError
from hierarchy.security.credential_store import JOIN_TOKEN, CredentialStore
from hierarchy.security.secret import read_secret, write_private_file
from hierarchy.security.state import State
from tests.clocks import Clock


def test_a_secret_comes_from_a_file_of_its_owner_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private_file(path, "s3cr3t\n")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_secret(f"file:{path}", {}) == "s3cr3t"
    assert read_secret("env:X", {"X": " s3cr3t "}) == "s3cr3t"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o610])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    write_private_file(path, "s3cr3t\n")
    path.chmod(mode)
    with pytest.raises(UsageError, match=rf"mode {mode:04o}\); run: chmod 600 {path}") as caught:
        read_secret(f"file:{path}", {})
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("text", ["", " \n", "two\nlines", "esc\x1b[0m", "ü", "x" * 20_000])
def test_what_is_no_secret_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    write_private_file(path, text)
    for ref in (f"file:{path}", "env:X"):
        with pytest.raises(UsageError) as caught:
            read_secret(ref, {"X": text})
        assert str(caught.value).isascii()
        assert "\n" not in str(caught.value)
        assert "lines" not in str(caught.value)


@pytest.mark.parametrize("ref", ["env:NOBODY", "file:/no/such/file"])
def test_a_secret_that_is_not_there_is_named(ref: str) -> None:
    with pytest.raises(UsageError, match=ref.partition(":")[2]):
        read_secret(ref, {})


def test_a_file_is_whole_even_if_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    write_private_file(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        write_private_file(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["secret"]  # noqa: PTH208


# the state of a parent


def test_a_token_is_used_by_one_and_by_that_one_again(tmp_path: Path) -> None:
    state = State(tmp_path / "new" / "state.json", Clock())
    assert state.use("t", 2000.0, "a")
    assert state.use("t", 2000.0, "a")
    assert not state.use("t", 2000.0, "b")
    assert State(state.path, Clock()).used_by("t") == "a"
    assert state.path.stat().st_mode & 0o777 == 0o600


def test_used_tokens_are_forgotten_when_they_have_expired(tmp_path: Path) -> None:
    clock = Clock()
    state = State(tmp_path / "state.json", clock)
    state.use("old", clock() + 10, "a")
    clock.tick(11)
    state.use("new", clock() + 10, "a")
    assert (state.used_by("old"), state.used_by("new")) == (None, "a")


def test_a_revocation_voids_what_was_issued_before_it_only(tmp_path: Path) -> None:
    clock = Clock()
    state = State(tmp_path / "state.json", clock)
    issued = clock()
    assert not state.is_revoked("site-a", issued)
    clock.tick(1)
    state.revoke("site-a")
    assert state.is_revoked("site-a", issued)
    assert state.is_revoked("site-a", clock())
    assert not state.is_revoked("site-a", clock() + 0.001)
    assert not state.is_revoked("site-b", issued)


def test_replicas_that_share_the_file_see_each_others_changes_and_lose_none(tmp_path: Path) -> None:
    one, two = (State(tmp_path / "state.json", Clock()) for _ in range(2))
    one.use("t", 2000.0, "a")
    assert not two.use("t", 2000.0, "b")
    two.revoke("site-a")
    assert one.refresh()
    assert one.is_revoked("site-a", 0.0)
    assert not one.refresh()
    assert one.used_by("t") == "a"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"used": {"t": 3}}', '{"revoked": {"a": "x"}}'])
def test_a_damaged_state_is_not_taken_for_an_empty_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is damaged"):
        State(path)


# what a child shows


def test_a_credential_goes_before_the_token_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "n" / "credential"
    credentials = CredentialStore.open(path, None, {JOIN_TOKEN: "token"})
    assert credentials
    assert credentials.bearer() == "token"
    credentials.keep("credential-1")
    assert credentials.bearer() == "credential-1"
    assert path.stat().st_mode & 0o777 == 0o600
    assert CredentialStore.open(path, None, {}).bearer() == "credential-1"
    assert CredentialStore.open(path, "file:/gone/after/use", {}).bearer() == "credential-1"


def test_after_a_refusal_the_other_one_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "credential"
    write_private_file(path, "revoked")
    credentials = CredentialStore.open(path, None, {JOIN_TOKEN: "new"})
    assert credentials.bearer() == "revoked"
    credentials.refused("revoked")
    assert credentials.bearer() == "new"
    credentials.refused("revoked")  # said by another parent, of what was shown before
    assert credentials.bearer() == "new"
    credentials.refused("new")
    assert credentials.bearer() == "revoked"
    credentials.keep("fresh")
    assert credentials.bearer() == "fresh"


def test_an_empty_purse(tmp_path: Path) -> None:
    credentials = CredentialStore.open(tmp_path / "credential", None, {})
    assert not credentials
    assert credentials.bearer() == ""
    with pytest.raises(UsageError, match="NOPE"):
        CredentialStore.open(tmp_path / "credential", "env:NOPE", {})
