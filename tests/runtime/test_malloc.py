"""The allocator settings, each applied in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

CALL = "from hierarchy.runtime.malloc import keep_freed_memory; print(keep_freed_memory())"


def printed(**env: str) -> str:
    """The output of a process that applies the settings, which cannot be undone."""
    done = subprocess.run([sys.executable, "-c", CALL], capture_output=True, text=True, env=env, timeout=30, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the settings")
def test_the_settings_are_applied() -> None:
    assert printed() == "True"


def test_environment_variables_take_precedence() -> None:
    assert printed(MALLOC_ARENA_MAX="1") == "False"
