"""What is measured: the compiled data path, as `pip install .` installs it, or the interpreted sources."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from compiled import CANNOT

from bench.peers import CACHE
from bench.testbed import ROOT, BenchError

COMPILE_S = 600.0


@dataclass(frozen=True)
class Build:
    """A copy of this project."""

    #: the PYTHONPATH of its nodes
    home: Path
    #: for the page
    description: str
    #: why it could not be compiled
    obstacle: str = ""

    @property
    def is_compiled(self) -> bool:
        """Whether its data path is compiled."""
        return self.home != ROOT


INTERPRETED = Build(ROOT, "data path interpreted")


def compiled() -> Build:
    """A compiled copy of this project. Kept until the sources change.

    Raises:
        BenchError: the compiler failed.
    """
    folder = CACHE / f"compiled-{_digest()}"
    done = folder / "done"
    if not done.exists():
        for former in CACHE.glob("compiled-*"):
            shutil.rmtree(former)
        try:
            made = subprocess.run(
                [sys.executable, ROOT / "tools" / "compiled.py", folder, "--whole"],
                capture_output=True,
                text=True,
                timeout=COMPILE_S,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"the data path was not compiled within {COMPILE_S:g} s") from None
        reason = (made.stderr.strip().splitlines() or ["compiled.py printed nothing"])[-1]
        if made.returncode == CANNOT:
            return Build(ROOT, INTERPRETED.description, reason.removeprefix("not compiled: "))
        if made.returncode:
            raise BenchError(f"{reason}; `python tools/compiled.py` shows all errors, --interpreted does not compile")
        done.touch()
    return Build(folder, f"data path compiled by mypyc {_mypy()}")


def _digest() -> str:
    """Changes with the sources, the compiler and the Python version."""
    digest = hashlib.sha256(f"{sysconfig.get_config_var('EXT_SUFFIX')} {_mypy()}".encode())
    for path in sorted([*(ROOT / "hierarchy").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _mypy() -> str:
    """Its version; empty if it is not installed, which compiled.py reports."""
    try:
        return version("mypy")
    except PackageNotFoundError:
        return ""
