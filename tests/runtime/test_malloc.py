from __future__ import annotations

import subprocess
import sys

import pytest

CALL = "from hierarchy.runtime.malloc import keep_freed_memory; print(keep_freed_memory())"


def said(**env: str) -> str:
    """In a process of its own, since it cannot be undone."""
    done = subprocess.run([sys.executable, "-c", CALL], capture_output=True, text=True, env=env, timeout=30, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the setting")
def test_it_is_applied() -> None:
    assert said() == "True"


def test_the_users_own_settings_win() -> None:
    assert said(MALLOC_ARENA_MAX="1") == "False"
