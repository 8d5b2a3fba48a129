"""Starts processes of `hierarchy` in a few milliseconds each: imports everything once, then forks.

Each is a process of its own that runs the command's own `main`, can be stopped, killed and waited for. Commands come as
JSON lines on stdin, `{"argv": [...], "log": path, "files": limit or null}`, and are answered with the pid. When this
process ends, so do all that it started.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

import hierarchy.cli


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: no zombies
    lifeline, held = os.pipe()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.close(held)
            run(order["argv"], order["log"], order["files"], lifeline)
        print(pid, flush=True)  # noqa: T201


def run(argv: list[str], log: str, files: int | None, lifeline: int) -> None:
    status = 1
    try:
        os.dup2(lifeline, 0)
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
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException as error:
        with Path(log).open("a") as file:
            file.write(f"Traceback: {error!r}\n")
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
