"""Folders that hang or are full, for one process: `python -m tests.hung_disk FOLDER COMMAND...`, in `unshare -Urm`.

Commands come on stdin, one a line, each acknowledged by a line on stdout:

    hang      a file system that never answers is mounted over FOLDER: whatever touches it waits, as on dead NFS
    fill      a full file system of 64 KiB is mounted over FOLDER
    release   it is unmounted; what waited gets an error

With `--wait` in front of FOLDER it only does what HUNG_DISK_FIRST says, and runs the command until it ends.

The first line on stdout is the pid of the command, which is killed when stdin ends. The mounts are in a namespace of
their own and end with it, so nothing is left on the machine, whatever happens to the test. Source: fuse.rst and
libfuse's kernel protocol; a FUSE whose first message is not answered makes every access wait.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.skips import missing

MNT_DETACH = 2
LIBC = ctypes.CDLL(None, use_errno=True)


def obstacle() -> str | None:
    """Why this machine cannot mount such folders; None if it can."""
    if sys.platform != "linux" or not Path("/dev/fuse").exists():
        return "no /dev/fuse; a file system that hangs cannot be mounted"
    command = ["unshare", "-Urm", sys.executable, "-m", "tests.hung_disk", "/mnt", "true"]
    try:
        done = subprocess.run(
            command, input="hang\nrelease\nfill\n", capture_output=True, text=True, timeout=20, check=False
        )
    except FileNotFoundError:
        return missing("unshare", "util-linux")
    return (
        None if done.stdout.count("done") == 3 else f"file systems cannot be mounted here: {done.stderr.strip()[-100:]}"
    )


class HungDisk:
    """A process whose folder can hang."""

    def __init__(self, process: subprocess.Popen[str], pid: int) -> None:
        self.process = process
        self.pid = pid

    def hang(self) -> None:
        """From now on nothing in the folder answers."""
        self._order("hang")

    def fill(self) -> None:
        """From now on the folder is empty, and has no room."""
        self._order("fill")

    def release(self) -> None:
        """The folder is as before."""
        self._order("release")

    def _order(self, order: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@contextmanager
def beside_hung_disk(folder: Path, command: list[str], log: Path, *, first: str = "") -> Iterator[HungDisk]:
    """Run a command whose `folder` can hang. first: what to do with it before the command starts; its stderr: `log`."""
    inside = ["unshare", "-Urm", sys.executable, "-m", "tests.hung_disk", str(folder), *command]
    with log.open("wb") as stderr:
        environ = {**os.environ, "HUNG_DISK_FIRST": first}
        process = subprocess.Popen(
            inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environ
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield HungDisk(process, int(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


class _Mounts:
    """What is mounted over one folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder.encode()
        self._fuse: int | None = None

    def hang(self) -> None:
        self._fuse = os.open("/dev/fuse", os.O_RDWR)
        self._mount(b"fuse", f"fd={self._fuse},rootmode=40000,user_id=0,group_id=0")

    def fill(self) -> None:
        self._mount(b"tmpfs", "size=64k,mode=700")
        with Path(self._folder.decode(), "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(b"x" * 4096)
            except OSError:
                pass

    def release(self) -> None:
        if LIBC.umount2(self._folder, MNT_DETACH):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if self._fuse is not None:
            os.close(self._fuse)  # the kernel ends the connection, and what waits on it
            self._fuse = None

    def _mount(self, kind: bytes, options: str) -> None:
        if LIBC.mount(b"test", self._folder, kind, 0, options.encode()):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def wait(folder: str, *command: str) -> int:
    """Run the command until it ends. Returns its status."""
    getattr(_Mounts(folder), os.environ["HUNG_DISK_FIRST"])()
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def main(folder: str, *command: str) -> None:
    """Run the command and obey stdin until it ends."""
    mounts = _Mounts(folder)
    if first := os.environ.get("HUNG_DISK_FIRST"):
        getattr(mounts, first)()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    print(process.pid, flush=True)  # noqa: T201
    try:
        for line in sys.stdin:
            getattr(mounts, line.strip())()
            print("done", flush=True)  # noqa: T201
    finally:
        process.kill()
        if mounts._fuse is not None:
            mounts.release()  # a process in an access to it could not even be killed before
        process.wait()


if __name__ == "__main__":
    if sys.argv[1] == "--wait":
        sys.exit(wait(*sys.argv[2:]))
    main(*sys.argv[1:])
