"""How the data path is compiled, and the messages where it cannot be. `make compiled` tests the result."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from tests.tools.test_bench import TOOLS, tools_on_path

with tools_on_path():
    import compiled
    from bench import build

ROOT = TOOLS.parent


def test_the_modules_to_compile_exist() -> None:
    for name in compiled.MODULES:
        assert (ROOT / "hierarchy" / f"{name.replace('.', '/')}.py").is_file(), name


def compile_with(**environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, TOOLS / "compiled.py", "nowhere"],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
    )


def test_the_error_without_a_compiler_names_what_to_install() -> None:
    done = compile_with(CC="no-such-compiler")
    assert (done.returncode, done.stderr) == (
        compiled.CANNOT,
        "not compiled: C compiler (no-such-compiler) not installed; Debian: apt install gcc libc6-dev\n",
    )


@pytest.mark.skipif(bool(compiled.obstacle()), reason=compiled.obstacle())
def test_the_compiler_is_found_where_pip_shows_it(tmp_path: Path) -> None:
    # pip's isolated builds have their environment on PYTHONPATH alone.
    (tmp_path / "mypyc").mkdir()
    (tmp_path / "mypyc" / "__init__.py").touch()
    (tmp_path / "mypyc" / "build.py").write_text("raise SystemExit('the mypyc of the build')\n")
    done = compile_with(PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "the mypyc of the build")


def test_without_a_compiler_the_benchmark_runs_interpreted_and_reports_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(build, "CACHE", tmp_path)
    made = build.compiled()
    assert not made.is_compiled
    assert (made.home, made.description) == (ROOT, "data path interpreted")
    assert made.obstacle.startswith("C compiler (no-such-compiler) not installed")


def test_the_benchmark_reports_a_missing_compiler_without_mypy_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(build, "CACHE", tmp_path)
    monkeypatch.setattr(build, "version", missing)
    assert build.compiled().obstacle


def test_the_copy_is_rebuilt_when_a_source_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = build._digest()
    (tmp_path / "hierarchy").mkdir()
    (tmp_path / "hierarchy" / "child.py").write_text("pass\n")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    changed = build._digest()
    (tmp_path / "hierarchy" / "child.py").write_text("pass \n")
    assert len({before, changed, build._digest()}) == 3
