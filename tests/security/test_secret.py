"""Secrets come from files of their owner or from the environment, and no message shows one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hierarchy.errors import UsageError
from hierarchy.runtime.files import write_private_file
from hierarchy.security.secret import read_secret


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
def test_a_text_that_is_not_a_secret_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    write_private_file(path, text)
    for ref in (f"file:{path}", "env:X"):
        with pytest.raises(UsageError) as caught:
            read_secret(ref, {"X": text})
        assert str(caught.value).isascii()
        assert "\n" not in str(caught.value)
        assert "lines" not in str(caught.value)


@pytest.mark.parametrize("ref", ["env:MISSING", "file:/no/such/file"])
def test_the_error_for_a_missing_secret_names_its_place(ref: str) -> None:
    with pytest.raises(UsageError, match=ref.partition(":")[2]):
        read_secret(ref, {})
