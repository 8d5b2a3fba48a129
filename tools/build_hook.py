"""Hatchling's build hook: a wheel holds the compiled data path where the machine that builds it can compile it.

HIERARCHY_COMPILE=0 never compiles; =1 compiles or fails; otherwise a machine that cannot compile gets a warning, and a
pure Python wheel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileHook(BuildHookInterface[Any]):  # type: ignore[misc]  # hatchling is only there while a wheel is built
    """Runs `compiled.py` for a wheel, and puts what it wrote beside the sources."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the wheel is written. version: "editable" for an installation that only points to the sources."""
        mode = os.environ.get("HIERARCHY_COMPILE", "auto")
        if version == "editable" or mode == "0":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="hierarchy-wheel-")
        done = subprocess.run(
            [sys.executable, Path(self.root, "tools", "compiled.py"), self._folder.name], capture_output=True, text=True
        )
        if done.returncode:
            why = done.stderr.strip() or f"compiled.py ended with status {done.returncode}"
            if mode == "1":
                raise RuntimeError(f"HIERARCHY_COMPILE=1, but the data path could not be compiled:\n{why}")
            self.app.display_warning(
                f"the data path will be interpreted, and requests cost more CPU: {why.splitlines()[-1]}"
            )
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for path in sorted(Path(self._folder.name).rglob("*.so")):
            build_data["force_include"][str(path)] = path.relative_to(self._folder.name).as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel is written."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()
