"""The contracts between rooms in pyproject.toml: an import that breaks one is reported by lint-imports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FOR_TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import "


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """lint-imports on the copy of the package in this folder."""
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert program, "lint-imports is not installed"
    return subprocess.run(
        [program, "--no-logo", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the package and of its contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "hierarchy", tmp_path / "hierarchy", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return tmp_path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param(
            {"http/added.py": "import hierarchy.relay"},
            "hierarchy.http.added -> hierarchy.relay (l.1)",
            id="a room that imports a higher one",
        ),
        pytest.param(
            {"wire/added.py": FOR_TYPES + "hierarchy.node"},
            "hierarchy.wire.added -> hierarchy.node (l.3)",
            id="a room that imports a higher one for types",
        ),
        pytest.param(
            {"topology/added.py": "import hierarchy.balancing"},
            "hierarchy.topology.added -> hierarchy.balancing (l.1)",
            id="a room that imports one of the same height",
        ),
        pytest.param(
            {"added/__init__.py": ""},
            "The following modules are not listed as layers:\n\n- hierarchy.added",
            id="a room without a height",
        ),
        pytest.param(
            {"runtime/one.py": "import hierarchy.runtime.two", "runtime/two.py": FOR_TYPES + "hierarchy.runtime.one"},
            "No cycles are allowed in hierarchy.runtime.",
            id="a circle of two files",
        ),
        pytest.param(
            {"translation/added.py": "import asyncio"},
            "hierarchy.translation.added -> asyncio (l.1)",
            id="input and output where bytes are understood",
        ),
    ],
)
def test_a_violation_is_reported(copy: Path, files: dict[str, str], message: str) -> None:
    assert message not in lint(copy).stdout
    for name, content in files.items():
        file = copy / "hierarchy" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    result = lint(copy)
    assert result.returncode == 1
    assert message in result.stdout
