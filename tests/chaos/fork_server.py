"""Starts processes of `hierarchy` in a few milliseconds each: imports all modules once, then forks.

Each process runs the command's `main`, and can be suspended, killed and waited for. A request is a line of JSON on
stdin, `{"argv": [...], "log": path, "files": limit or null}`; the response is a line with the pid. All processes end
when this one does.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

import hierarchy.cli.program
import hierarchy.cli.run_node
import hierarchy.engines.simulated.app


def main() -> None:
    """Serve requests until stdin ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies, although no process waits for them
    stdin, held_open = os.pipe()
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.close(held_open)
            run(request["argv"], request["log"], request["files"], stdin)
        print(pid, flush=True)  # noqa: T201


def run(argv: list[str], log: str, files: int | None, stdin: int) -> None:
    """Run `hierarchy` in a forked process, and exit. files: the limit of file descriptors."""
    status = 1
    try:
        os.dup2(stdin, 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        sys.argv = ["hierarchy", *argv, "--exit-with-parent"]
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        hierarchy.cli.main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        with Path(log).open("a") as file:
            file.write(f"Traceback: {error!r}\n")
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
