"""Dying with one's parent, portably.

A parent that was killed with -9 cannot tell its children. But it held the writing end of their stdin, and the kernel
closes that for it: whoever reads stdin to its end knows. (Linux's `PR_SET_PDEATHSIG` does the same on Linux alone.)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def call_on_parent_death(on_gone: Callable[[], None], fd: int = 0) -> None:
    """Call `on_gone` once, **in another thread**, when `fd` (stdin) reaches its end or cannot be read.

    Only for a process whose parent holds a pipe to its stdin: with stdin at `/dev/null` it is gone at once.
    """

    def watch() -> None:
        # Not sys.stdin.read: its lock, held by a daemon thread, would make the interpreter abort at exit.
        try:
            while os.read(fd, 4096):
                pass
        except OSError:
            pass  # closed or never open: nobody holds the other end
        on_gone()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
