"""Hatchling's build hook: a wheel contains the compiled data path if the machine that builds it can compile it.

HIERARCHY_COMPILE=0 does not compile; HIERARCHY_COMPILE=1 fails unless the data path can be compiled. Without either,
a machine that cannot compile prints a warning, and its wheel has no compiled modules.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileHook(BuildHookInterface[Any]):  # type: ignore[misc]  # hatchling is installed only while a wheel is built
    """Runs `compiled.py` for a wheel, and adds the modules that it writes beside the sources."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel is written. version: "editable" if the installation only points to the sources.

        Raises:
            RuntimeError: compiling was required, but failed.
        """
        mode = os.environ.get("HIERARCHY_COMPILE", "auto")
        if version == "editable" or mode == "0":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="hierarchy-wheel-")
        done = subprocess.run(
            [sys.executable, Path(self.root, "tools", "compiled.py"), self._folder.name], capture_output=True, text=True
        )
        if done.returncode:
            reason = done.stderr.strip() or f"compiled.py ended with status {done.returncode}"
            if mode == "1":
                raise RuntimeError(f"HIERARCHY_COMPILE=1, but the data path could not be compiled:\n{reason}")
            self.app.display_warning(
                f"the data path will be interpreted, and requests cost more CPU: {reason.splitlines()[-1]}"
            )
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for path in sorted(Path(self._folder.name).rglob("*.so")):
            build_data["force_include"][str(path)] = path.relative_to(self._folder.name).as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the compiled modules after the wheel is written."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()
