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
    assert store.is_revoked("site-a", 1.0), "in memory"
    assert not store.path.exists()
    store.refresh()
    assert TokenStore(store.path, Clock()).is_revoked("site-a", 1.0)


def test_what_another_instance_knows_applies_at_once_and_is_saved_by_the_next_sweep(tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "state.json", Clock())
    store.learn_use("t", 2000.0, "a")
    store.learn_use("old", 999.0, "a")
    assert [store.learn_revocation("site-a", at) for at in (5.0, 4.0, 5.0)] == [True, False, False]
    assert (store.used(), store.revoked()) == ({"t": (2000.0, "a")}, {"site-a": 5.0})
    assert not store.path.exists()
    store.refresh()
    assert TokenStore(store.path, Clock()).used() == store.used()


def test_what_another_instance_knows_applies_even_if_it_cannot_be_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TokenStore(tmp_path / "state.json", Clock())

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_store, "write_private_file", full)
    store.learn_revocation("site-a", 5.0)
    store.refresh()
    store.refresh()
    assert store.is_revoked("site-a", 5.0)
    (line,) = [record.message for record in caplog.records]
    assert "cannot be written (No space left on device); no child can join with a token" in line
    monkeypatch.undo()
    store.use("t", 2000.0, "a")
    assert TokenStore(store.path, Clock()).is_revoked("site-a", 5.0), "written with the next change"


def test_a_file_that_is_removed_or_replaced_by_an_older_one_takes_nothing_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = TokenStore(tmp_path / "state.json", Clock())
    store.revoke("site-a")
    older = store.path.read_bytes()
    store.revoke("site-b")
    store.path.unlink()
    assert not store.refresh()
    assert "was removed while this node runs" in caplog.text
    assert TokenStore(store.path, Clock()).is_revoked("site-b", 1.0)
    store.path.write_bytes(older)
    store.refresh()
    assert store.is_revoked("site-b", 1.0)
    store.use("t", 2000.0, "a")
    assert TokenStore(store.path, Clock()).is_revoked("site-b", 1.0)


def test_a_file_of_an_earlier_release_has_every_record(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"used": {}, "revoked": {"site-a": 5.0}}')
    store = TokenStore(path, Clock())
    store.note_credential(1.0)
    assert (store.is_incomplete, store.is_revoked("site-a", 5.0)) == (False, True)


def test_what_another_process_confirms_is_confirmed_here(tmp_path: Path) -> None:
    one, two = (TokenStore(tmp_path / "state.json", Clock()) for _ in range(2))
    one.note_credential(1.0)
    one.refresh()
    two.refresh()
    assert two.is_incomplete
    two.confirm()
    one.refresh()
    assert not one.is_incomplete


@pytest.mark.parametrize("text", ["", "{", "[]", '{"used": {"t": 3}}', '{"revoked": {"a": "x"}}'])
def test_a_damaged_file_is_an_error_and_not_an_empty_store(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is damaged"):
        TokenStore(path)
