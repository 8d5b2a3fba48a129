"""Processes that keep every core busy, at the same priority as all others: what a small machine is like under load."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Self

# It ends with its parent, however that ends: a hog that is left behind slows down everything on the machine.
_HOG = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


class Hogs:
    """One busy process for each core while the block runs."""

    def __init__(self, count: int | None = None) -> None:
        self._count = len(os.sched_getaffinity(0)) if count is None else count
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        for _ in range(self._count):
            self._processes.append(subprocess.Popen([sys.executable, "-I", "-S", "-c", _HOG]))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def __repr__(self) -> str:
        return f"<Hogs {len(self._processes)} of {self._count}>"
