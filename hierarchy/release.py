"""What this program is called where it is installed, and which release it is. Needs no other module."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

#: the distribution, as pip calls it. The name `hierarchy` on PyPI belongs to another project.
DISTRIBUTION: Final = "hierarchy-llm"
#: the release. A constant, and no look-up of an installed distribution: that could be another project's.
VERSION: Final = "0.1.0"


_PACKAGE = Path(__file__).parent


def data_path() -> str:
    """Whether the data path is `compiled` or `interpreted`."""
    folder = _PACKAGE / "relay" / "downstream"
    found = any((folder / f"connection{suffix}").exists() for suffix in EXTENSION_SUFFIXES)
    return "compiled" if found else "interpreted"


def install_command(extra: str) -> str:
    """The command that installs this program with one of its extras."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
