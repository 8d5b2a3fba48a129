"""Files: noticing a change, locking, and writing atomically."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hierarchy.runtime.files import LOCKED_S, Busy, FileWatch, Hold, locked, remove_unfinished, write_private_file
from tests.support import DEADLINE_S


def replace(path: Path, text: str) -> None:
    """Save as many editors do: write another file, and rename it."""
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


# watching


def test_a_change_is_reported_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    watch = FileWatch(path)
    assert not watch.changed()
    path.write_text("longer")
    assert watch.changed()
    assert not watch.changed()


def test_replacing_creating_or_deleting_a_file_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    watch = FileWatch(path)
    for _ in range(3):
        replace(path, "same")
        assert watch.changed()
    path.unlink()
    assert watch.changed()
    assert not watch.changed()


def test_a_symbolic_link_that_points_elsewhere_has_changed(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "file").write_text(version)
    current = tmp_path / "current"
    current.symlink_to("1")
    watch = FileWatch(current / "file")
    (tmp_path / "next").symlink_to("2")
    (tmp_path / "next").replace(current)  # as Kubernetes updates a ConfigMap
    assert watch.changed()


def test_several_files_are_watched_together(tmp_path: Path) -> None:
    watch = FileWatch(tmp_path / "a", tmp_path / "b")
    for name in ("a", "b"):
        (tmp_path / name).touch()
        assert watch.changed()
    assert not watch.changed()


# locking


def hold(path: Path, held: threading.Event, release: threading.Event) -> None:
    with locked(path):
        held.set()
        release.wait(DEADLINE_S)


@pytest.fixture
def other_process(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A process that holds the lock `tmp_path/lock`; yields it and the event that releases the lock."""
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "lock", held, release), daemon=True)
    process.start()
    assert held.wait(DEADLINE_S)
    yield process, release
    process.kill()
    process.join(DEADLINE_S)


def test_a_lock_waits_for_another_process_and_reports_it(tmp_path: Path, other_process) -> None:  # type: ignore[no-untyped-def]
    _, release = other_process
    with locked(tmp_path / "lock", on_wait=release.set):
        assert release.is_set()
    with locked(tmp_path / "lock", on_wait=lambda: pytest.fail("the lock was not released")):
        pass


def test_waiting_for_a_lock_times_out(tmp_path: Path, other_process) -> None:  # type: ignore[no-untyped-def]
    with (
        pytest.raises(TimeoutError, match="another process keeps it locked") as caught,
        locked(tmp_path / "lock", 0.05),
    ):
        pytest.fail("two processes hold the lock")
    assert caught.value.filename == str(tmp_path / "lock")


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path, other_process) -> None:  # type: ignore[no-untyped-def]
    process, _ = other_process
    process.kill()
    with locked(tmp_path / "lock", DEADLINE_S):
        pass


def test_a_lock_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "lock"):
        pytest.fail("a file has no files in it")


def test_many_hold_a_file_together_or_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "running.lock"
    one, two = Hold(path), Hold(path)
    assert path.stat().st_mode & 0o777 == 0o600
    for hold in (one, two):
        with pytest.raises(Busy):
            Hold(path, alone=True)
        hold.release()
    alone = Hold(path, alone=True)
    for kind in (False, True):
        with pytest.raises(Busy):
            Hold(path, alone=kind)
    alone.release()
    Hold(path).release()


# writing


def test_only_its_owner_may_read_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_private_file(path, "ü")
    assert path.read_text("utf-8") == "ü"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    write_private_file(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        write_private_file(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["secret"]  # noqa: PTH208


WRITE_FOR_EVER = """
import os, sys, time
from pathlib import Path
from hierarchy.runtime import files
def wait(_):
    print("writing", flush=True)
    time.sleep(60)
files.os.fsync = wait
files.write_private_file(Path(sys.argv[1]), "secret")
"""


def test_what_a_killed_process_was_writing_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "credential"
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "writing\n"
        (left,) = tmp_path.iterdir()
        later = left.stat().st_mtime + 2 * LOCKED_S
        assert remove_unfinished(tmp_path, later) == []
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert remove_unfinished(tmp_path, left.stat().st_mtime) == [], "it may not be locked yet"
    assert remove_unfinished(tmp_path, later) == [left.name]
    assert list(tmp_path.iterdir()) == []


def test_only_files_of_that_form_are_removed(tmp_path: Path) -> None:
    for name in (
        "credential",
        ".hidden",
        ".credential.short",
        ".nfs.UPPERCAS",
        "a.12345678",
        ".credential.12345678.bak",
    ):
        write_private_file(tmp_path / name, "kept")
    (tmp_path / ".folder.12345678").mkdir()
    (tmp_path / ".pipe.12345678").symlink_to("credential")
    os.mkfifo(tmp_path / ".fifo.12345678", 0o600)
    before = sorted(tmp_path.iterdir())
    assert remove_unfinished(tmp_path, time.time() + 60) == []
    assert sorted(tmp_path.iterdir()) == before
    assert remove_unfinished(tmp_path / "none", time.time()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
def test_a_file_of_another_user_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / ".credential.abcdefgh"
    write_private_file(path, "of somebody else")
    os.chown(path, 12345, 12345)
    assert remove_unfinished(tmp_path, time.time() + 60) == []


@pytest.mark.parametrize("target", ["there", "not-there"])
def test_a_lock_file_that_is_a_symbolic_link_is_not_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "there").write_text("kept")
    link = tmp_path / "state.lock"
    link.symlink_to(tmp_path / target)
    with pytest.raises(OSError, match="symbolic links"), locked(link, 1):
        pass
    with pytest.raises(OSError, match="symbolic links"):
        Hold(link)
    assert (tmp_path / "there").read_text() == "kept"
    assert not (tmp_path / "not-there").exists()
