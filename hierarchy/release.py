"""What this program is called where it is installed, and which release it is. Needs no other module."""

from __future__ import annotations

import functools
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

#: the distribution, as pip calls it. The name `hierarchy` on PyPI belongs to another project.
DISTRIBUTION: Final = "hierarchy-llm"
#: the release. A constant, and no look-up of an installed distribution: that could be another project's.
VERSION: Final = "0.1.0"


_PACKAGE = Path(__file__).parent


@functools.cache
def build() -> str:
    """An id of this program's sources, of 12 hex digits: two builds of one release that differ have different ids.

    It is computed from the files themselves, in a few milliseconds, so that it is true of an installation that was
    changed, and needs neither git nor a step at the build. A compiled build has the id of its sources.
    """
    import hashlib  # which takes as long as half of all else that comes before a command owns its signals

    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py"), key=lambda path: path.as_posix()):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


@functools.cache
def data_path() -> str:
    """Whether the data path is `compiled` or `interpreted`."""
    folder = _PACKAGE / "relay" / "downstream"
    found = any((folder / f"connection{suffix}").exists() for suffix in EXTENSION_SUFFIXES)
    return "compiled" if found else "interpreted"


def install_command(extra: str) -> str:
    """The command that installs this program with one of its extras."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
