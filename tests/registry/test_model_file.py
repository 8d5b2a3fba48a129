"""The names of models, from one process to the next."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hierarchy.names import MAX_NAME
from hierarchy.registry.known_models import MAX_KNOWN
from hierarchy.registry.model_file import FILE_NAME, MAX_BYTES, WRITE_INTERVAL_S, ModelFile
from hierarchy.wire.listing import SeenKey

AGES: dict[SeenKey, float] = {("m", "openai"): 0.0, ("modèle", "fastchat"): 12.34}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "root" / FILE_NAME


def test_what_is_written_is_read(path: Path) -> None:
    ModelFile(path).write(AGES)
    assert ModelFile(path).read() == {("m", "openai"): 0.0, ("modèle", "fastchat"): 12.3}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_missing_file_is_nothing_unusual(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ModelFile(path).read() == {}
    assert caplog.messages == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"models": 1}', b'{"models": [{"name": "m"}]}', b"[" * 100_000, b"\0" * 4096],
)
def test_a_damaged_file_is_one_warning(path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    file = ModelFile(path)
    assert file.read() == {}
    assert len(caplog.messages) == 1
    assert str(path) in caplog.messages[0]
    assert file.is_due({("m", "openai")}, 0.0)  # and it is replaced
    file.write(AGES)
    assert ModelFile(path).read()


def test_a_file_that_is_too_large_is_not_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.touch()
    os.truncate(path, MAX_BYTES + 1)
    assert ModelFile(path).read() == {}
    assert "larger" in caplog.text


def test_all_models_of_the_longest_names_fit(path: Path) -> None:
    ages: dict[SeenKey, float] = {
        (f"{number:04}".ljust(MAX_NAME, "\U0001f600"), "openai"): 1.0 for number in range(MAX_KNOWN)
    }
    ModelFile(path).write(ages)
    assert len(ModelFile(path).read()) == MAX_KNOWN


def test_rows_that_cannot_be_are_left_out(path: Path) -> None:
    path.parent.mkdir()
    rows = [("m", "openai", 1.0), ("x" * 999, "openai", 1.0), ("a\nb", "openai", 1.0), ("old", "openai", -1.0)]
    rows += [("older", "openai", 1e9), ("far", "y" * 999, 1.0)]
    path.write_text(json.dumps({"models": [{"name": n, "api": a, "age_s": s} for n, a, s in rows], "later": 1}))
    assert ModelFile(path).read() == {("m", "openai"): 1.0}


def test_it_is_written_only_when_the_names_change_and_not_often(path: Path) -> None:
    file = ModelFile(path)
    assert file.is_due(AGES, 0.0)
    file.write(AGES)
    assert not file.is_due(AGES, 2 * WRITE_INTERVAL_S)
    assert file.is_due({("m", "openai")}, 2 * WRITE_INTERVAL_S)
    file.write({("m", "openai"): 0.0})
    assert not file.is_due(AGES, 3 * WRITE_INTERVAL_S - 1)
    assert file.is_due(AGES, 3 * WRITE_INTERVAL_S)


def test_a_disk_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "root").write_text("no folder")
    file = ModelFile(tmp_path / "root" / FILE_NAME)
    for number in range(3):
        assert file.is_due(AGES, number * WRITE_INTERVAL_S)
        file.write(AGES)
    assert len(caplog.messages) == 1
    assert "cannot be written" in caplog.messages[0]
