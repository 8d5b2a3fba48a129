"""Used join tokens and revocations, as a parent stores them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hierarchy.errors import UsageError
from hierarchy.runtime.files import locked
from hierarchy.security import token_store
from hierarchy.security.token_store import TokenStore
from tests.clocks import Clock


def test_a_token_is_used_by_one_process_which_may_repeat_it(tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "new" / "state.json", Clock())
    assert store.use("t", 2000.0, "a")
    assert store.use("t", 2000.0, "a")
    assert not store.use("t", 2000.0, "b")
    assert TokenStore(store.path, Clock()).used_by("t") == "a"
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_used_tokens_are_forgotten_when_they_have_expired(tmp_path: Path) -> None:
    clock = Clock()
    store = TokenStore(tmp_path / "state.json", clock)
    store.use("old", clock() + 10, "a")
    clock.tick(11)
    store.use("new", clock() + 10, "a")
    assert (store.used_by("old"), store.used_by("new")) == (None, "a")


def test_a_revocation_applies_only_to_what_was_issued_before_it(tmp_path: Path) -> None:
    clock = Clock()
    store = TokenStore(tmp_path / "state.json", clock)
    issued = clock()
    assert not store.is_revoked("site-a", issued)
    clock.tick(1)
    store.revoke("site-a")
    assert store.is_revoked("site-a", issued)
    assert store.is_revoked("site-a", clock())
    assert not store.is_revoked("site-a", clock() + 0.001)
    assert not store.is_revoked("site-b", issued)


def test_replicas_that_share_the_file_see_all_changes(tmp_path: Path) -> None:
    one, two = (TokenStore(tmp_path / "state.json", Clock()) for _ in range(2))
    one.use("t", 2000.0, "a")
    assert not two.use("t", 2000.0, "b")
    two.revoke("site-a")
    assert one.refresh()
    assert one.is_revoked("site-a", 0.0)
    assert not one.refresh()
    assert one.used_by("t") == "a"


def test_a_replica_that_never_releases_the_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_store, "LOCK_TIMEOUT_S", 0.05)
    store = TokenStore(tmp_path / "state.json", Clock())
    with locked(tmp_path / "state.lock"), pytest.raises(TimeoutError, match="another process keeps it locked"):
        store.revoke("site-a")
    assert not store.is_revoked("site-a", 1.0)
    store.revoke("site-a")
    assert store.is_revoked("site-a", 1.0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"used": {"t": 3}}', '{"revoked": {"a": "x"}}'])
def test_a_damaged_file_is_an_error_and_not_an_empty_store(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is damaged"):
        TokenStore(path)
