"""Runs a command that knows nothing of its parent: `python -m hierarchy.runtime.guardian COMMAND [ARGUMENT ...]`.

The command and all that it starts are in this process's group. SIGTERM goes to all of them. When the parent of this
process dies, which closes its stdin, they get SIGTERM, and SIGKILL after a moment: nothing is left, even after a
`kill -9` of the parent. The exit status is the command's, 128 + N if signal N ended it, or 127 if it cannot be started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from hierarchy.runtime.parent_death import call_on_parent_death

GRACE_S: Final = 5.0  # between SIGTERM and SIGKILL, when the parent is dead
CANNOT_START: Final = 127  # as a shell's


def main(argv: Sequence[str]) -> int:
    """Run a command until it ends. Returns the exit status."""
    ending: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if not ending:
            ending.append(number)
            os.killpg(0, signal.SIGTERM)  # this process, too, which ignores it from now on

    signal.signal(signal.SIGTERM, end)
    try:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"cannot start {argv[0]}: {error.strerror or error}\n")
        return CANNOT_START
    call_on_parent_death(_kill_all)
    status = process.wait()
    return status if status >= 0 else 128 - status


def _kill_all() -> None:
    """In a thread: the parent is dead."""
    os.killpg(0, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until and _has_others():
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(0, signal.SIGKILL)


def _has_others() -> bool:
    """Is another process in this process's group? Where that cannot be seen, it may be."""
    own = os.getpid()
    try:
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return True
    for pid in pids:
        with contextlib.suppress(OSError):
            if pid != own and os.getpgid(pid) == own:
                return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
