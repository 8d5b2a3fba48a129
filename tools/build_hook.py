"""Hatchling's build hook: a wheel contains the compiled data path if the machine that builds it can compile it.

HIERARCHY_COMPILE=0 does not compile; HIERARCHY_COMPILE=1 fails unless the data path can be compiled. Without either,
a machine that cannot compile prints a warning, and its wheel has no compiled modules.

Compiling takes minutes, and pip keeps the output of a build to itself unless it has -v. So what the build does is also
written to the terminal of the process, if it has one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TERMINAL = "/dev/tty"  # of this process, whatever its output is redirected to


def announce(line: str) -> None:
    """Print what the build does, on its output and on the terminal."""
    print(f"hierarchy: {line}", file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        with contextlib.suppress(OSError), Path(TERMINAL).open("w") as screen:
            screen.write(f"\n  hierarchy: {line}\n")


def compile_into(folder: str, script: Path) -> tuple[int, str]:
    """Run `compiled.py`, and announce each line that it prints. Returns its status and its messages."""
    with (
        tempfile.TemporaryFile("w+") as messages,
        subprocess.Popen([sys.executable, script, folder], stdout=subprocess.PIPE, stderr=messages, text=True) as run,
    ):
        assert run.stdout is not None
        for line in run.stdout:
            announce(line.rstrip())
        status = run.wait()
        messages.seek(0)
        return status, messages.read().strip()


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
        status, messages = compile_into(self._folder.name, Path(self.root, "tools", "compiled.py"))
        if status:
            reason = messages or f"compiled.py ended with status {status}"
            if mode == "1":
                raise RuntimeError(f"HIERARCHY_COMPILE=1, but the data path could not be compiled:\n{reason}")
            warning = f"the data path will be interpreted, and requests cost more CPU: {reason.splitlines()[-1]}"
            self.app.display_warning(warning)
            announce(warning)
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for path in sorted(Path(self._folder.name).rglob("*.so")):
            build_data["force_include"][str(path)] = path.relative_to(self._folder.name).as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the compiled modules after the wheel is written."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()
