"""Noticing on every platform that the parent process died.

A parent that is killed with -9 cannot notify its children. But it holds the writing end of their stdin, which the
kernel then closes, so a child that reads its stdin reaches the end. (`PR_SET_PDEATHSIG` exists on Linux only.)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def call_on_parent_death(callback: Callable[[], None], fd: int = 0) -> None:
    """Call `callback` once, **in another thread**, when `fd` (stdin) reaches its end or cannot be read.

    Only for a process whose parent holds a pipe to its stdin: if stdin is `/dev/null`, `callback` is called at once.
    """

    def watch() -> None:
        # Not sys.stdin.read: a daemon thread that holds its lock makes the interpreter abort at exit.
        try:
            while os.read(fd, 4096):
                pass
        except OSError:
            pass  # closed, or never open: no process holds the other end
        callback()

    threading.Thread(target=watch, name="parent-death", daemon=True).start()
