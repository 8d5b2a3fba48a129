"""What is measured: the data path compiled, as `pip install .` leaves it, or the sources as they are."""

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

from bench.bed import ROOT, BedError
from bench.peers import CACHE

COMPILE_S = 600.0


@dataclass(frozen=True)
class Build:
    """home: what nodes have on their PYTHONPATH. said: for the figures. obstacle: why it could not be compiled."""

    home: Path
    said: str
    obstacle: str = ""

    @property
    def is_compiled(self) -> bool:
        return self.home != ROOT


INTERPRETED = Build(ROOT, "data path interpreted")


def compiled() -> Build:
    """A compiled copy of this project, made if there is none of this state of it.

    Raises:
        BedError: the compiler failed.
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
            raise BedError(f"the data path was not compiled within {COMPILE_S:g} s") from None
        why = (made.stderr.strip().splitlines() or ["compiled.py said nothing"])[-1]
        if made.returncode == CANNOT:
            return Build(ROOT, INTERPRETED.said, why.removeprefix("not compiled: "))
        if made.returncode:
            raise BedError(f"{why}; python tools/compiled.py shows all of it, --interpreted goes without")
        done.touch()
    return Build(folder, f"data path compiled by mypyc {_mypy()}")


def _digest() -> str:
    """Changes with whatever goes into the copy, and with the Python that it is for."""
    digest = hashlib.sha256(f"{sysconfig.get_config_var('EXT_SUFFIX')} {_mypy()}".encode())
    for path in sorted([*(ROOT / "hierarchy").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _mypy() -> str:
    """Its version; empty where it is missing, which compiled.py says better."""
    try:
        return version("mypy")
    except PackageNotFoundError:
        return ""
