"""Signals to commands that stay, from their first moment on: real processes, as an operator starts them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from hierarchy.security.keys import create_key, digest
from tests.support import eventually, free_port

ROOT = Path(__file__).parents[2]
START_S = 60.0
NOTHING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)  # end no process that stays

#: Python imports it by itself at its start. The process gets the signals in SIGNALS whenever one of the modules in
#: MOMENTS is imported, and counts these moments in a file
SITE = """
import os
class Moments:
    def find_spec(self, name, path=None, target=None):
        if name in os.environ["MOMENTS"].split():
            open(os.environ["SENT"], "a").write(name + " ")
            for number in os.environ["SIGNALS"].split():
                os.kill(os.getpid(), int(number))
import sys
sys.meta_path.insert(0, Moments())
"""
NODE_MOMENTS = ("hierarchy.cli.program", "typer", "pydantic", "fastapi", "hierarchy.node", "hierarchy.server")
TREE = """\
version: 1
defaults: {{grace_s: 0.2}}
nodes:
  root: {{listen: "127.0.0.1:{port}"}}
engines:
  gpu: {{parent: root, kind: simulated, url: "http://127.0.0.1:{nothing}"}}
"""


class Started:
    """A process, and the files with its output."""

    def __init__(self, folder: Path, arguments: Sequence[str], port: int, **options: object) -> None:
        self.port = port
        self.log = folder / "process.log"
        self.process: subprocess.Popen[bytes]
        command = [*options.pop("before", ()), sys.executable, "-m", "hierarchy", *arguments]  # type: ignore[misc]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload]

    @property
    def text(self) -> str:
        return self.log.read_text()

    def accepts(self) -> bool:
        """Whether its port is open."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False

    def responds(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{self.port}/health").status_code == 200
        return False

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition, or fail as soon as the process has ended."""
        eventually(lambda: condition() or self.process.poll() is not None, what, START_S)
        assert self.process.poll() is None, f"it ended with {self.process.returncode} before {what}:\n{self.text}"

    def ends(self) -> int:
        return self.process.wait(START_S)


@contextlib.contextmanager
def started(folder: Path, arguments: Sequence[str], port: int, **options: object) -> Iterator[Started]:
    one = Started(folder, arguments, port, **options)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()


def environment(folder: Path, moments: Sequence[str] = (), numbers: Sequence[int] = ()) -> dict[str, str]:
    """In which a process gets signals at its first moments."""
    (folder / "sitecustomize.py").write_text(SITE)
    sent = {
        "MOMENTS": " ".join(moments),
        "SIGNALS": " ".join(map(str, map(int, numbers))),
        "SENT": str(folder / "sent"),
    }
    return {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "XDG_STATE_HOME": str(folder), **sent}


def by_flags(port: int) -> list[str]:
    return ["serve", "--host", "127.0.0.1", "--port", str(port)]


def command(kind: str, folder: Path, port: int) -> list[str]:
    """Arguments of a command that stays and listens on the port."""
    file = folder / "tree.yaml"
    file.write_text(TREE.format(port=port, nothing=free_port()))
    return {
        "flags": by_flags(port),
        "file": ["serve", str(file)],
        "up": ["up", str(file)],
        "engine": ["engine", "simulated", "--port", str(port)],
    }[kind]


MOMENTS = {
    "flags": NODE_MOMENTS,
    "file": NODE_MOMENTS,
    "up": ("hierarchy.cli.program", "typer", "hierarchy.topology.declared", "hierarchy.cli.supervise", "asyncio"),
    "engine": ("hierarchy.cli.program", "typer", "uvicorn", "hierarchy.engines.simulated.app"),
}
LINES = {
    "flags": "a hangup ends nothing; read again: no file, since this node has none",
    "file": "a hangup ends nothing; read again: {file}",
    "up": "a hangup ends nothing: each node reads a changed file by itself",
    "engine": "a hangup ends nothing",
}


@pytest.mark.parametrize("kind", MOMENTS)
def test_no_signal_but_those_for_it_ends_a_process_at_any_moment(kind: str, tmp_path: Path) -> None:
    port, moments = free_port(), MOMENTS[kind]
    arguments = command(kind, tmp_path, port)
    # The nodes of `up` start in the same environment, and get the signals as well.
    with started(tmp_path, arguments, port, env=environment(tmp_path, moments, NOTHING)) as one:
        one.wait(one.accepts, "the port to be open")
        for number in NOTHING:
            one.process.send_signal(number)
        one.wait(one.responds, "the first response")
        line = LINES[kind].format(file=tmp_path / "tree.yaml")
        one.wait(lambda: line in one.text, "the line about the hangup")
        before = one.text.count(line)
        for number in NOTHING:
            one.process.send_signal(number)
        one.wait(lambda: one.text.count(line) > before, "the line about the next hangup")
        assert one.responds()
        one.process.terminate()
        assert one.ends() == 0
    assert set((tmp_path / "sent").read_text().split()) == set(moments)
    assert "Traceback" not in one.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_that_ends_a_node_as_its_port_opens_ends_it_without_a_traceback(
    number: signal.Signals, tmp_path: Path
) -> None:
    port = free_port()
    with started(tmp_path, by_flags(port), port) as one:
        one.wait(one.accepts, "the port to be open")
        one.process.send_signal(number)
        assert one.ends() in (0, -number)
    assert "Traceback" not in one.text
    assert [line for line in one.text.splitlines() if " INFO " not in line] == []


def test_sigquit_lets_a_node_finish_as_sigterm_does(tmp_path: Path) -> None:
    port = free_port()
    with started(tmp_path, by_flags(port), port) as one:
        one.wait(one.responds, "the first response")
        one.process.send_signal(signal.SIGQUIT)
        assert one.ends() == 0
    assert "Finished server process" in one.text


def test_under_nohup_a_hangup_stays_ignored(tmp_path: Path) -> None:
    port = free_port()
    ignored = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    with started(tmp_path, by_flags(port), port, before=ignored, env=environment(tmp_path, NODE_MOMENTS, [1])) as one:
        one.wait(one.responds, "the first response")
        one.process.send_signal(signal.SIGHUP)
        one.process.send_signal(signal.SIGTERM)
        assert one.ends() == 0
    assert "hangup" not in one.text


def test_a_node_ends_when_its_terminal_is_closed(tmp_path: Path) -> None:
    ours, its = os.openpty()
    port = free_port()

    def take_terminal() -> None:
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)

    options = {"preexec_fn": take_terminal, "pass_fds": (its,), "start_new_session": True}
    with started(tmp_path, by_flags(port), port, **options) as one:
        os.close(its)
        one.wait(one.responds, "the first response")
        os.close(ours)
        assert one.ends() == 0
    assert "INFO" in one.text
    assert "ending: the terminal was closed" in one.text


def test_a_hangup_reopens_a_log_that_was_moved(tmp_path: Path) -> None:
    port = free_port()
    with started(tmp_path, by_flags(port), port) as one:
        one.wait(one.responds, "the first response")
        moved = one.log.rename(tmp_path / "process.log.1")
        one.process.send_signal(signal.SIGHUP)
        one.wait(lambda: one.log.exists() and "a hangup" in one.text, "the new log")
        assert f"the log was moved, and continues in {one.log}" in one.text
        assert "a hangup" not in moved.read_text()
        one.process.terminate()
        assert one.ends() == 0
    assert "Finished server process" in one.text


def test_a_hangup_reads_keys_again_whose_file_looks_the_same(tmp_path: Path) -> None:
    port, keys = free_port(), tmp_path / "keys.yaml"
    old, new = create_key(keys, "old", None), "hk_" + "n" * 43
    with started(tmp_path, [*by_flags(port), "--api-keys", str(keys)], port) as one:
        one.wait(one.responds, "the first response")
        seen = keys.stat()
        with keys.open("r+") as file:  # in place, of the same length
            text = file.read().replace(digest(old.encode()), digest(new.encode()))
            file.seek(0)
            file.write(text)
        os.utime(keys, ns=(seen.st_atime_ns, seen.st_mtime_ns))

        def status(key: str) -> int:
            found = httpx.get(f"http://127.0.0.1:{port}/v1/models", headers={"authorization": f"Bearer {key}"})
            return found.status_code

        assert (status(old), status(new)) == (200, 401)
        one.process.send_signal(signal.SIGHUP)
        one.wait(lambda: status(new) == 200, "the new key to be valid")
        assert status(old) == 401
    assert "a hangup ends nothing; read again: API keys" in one.text
    assert f"{keys}: 1 keys" in one.text


def can_make_a_pid_namespace() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rpf", "--kill-child", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_make_a_pid_namespace(), reason="cannot make a namespace for processes")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_process_of_a_container_ends_while_it_imports(number: signal.Signals, tmp_path: Path) -> None:
    port = free_port()
    first = ("unshare", "-rpf", "--kill-child")
    env = environment(tmp_path, ["fastapi"], [number])
    with started(tmp_path, by_flags(port), port, before=first, env=env) as one:
        assert one.ends() == 128 + number
    assert (tmp_path / "sent").read_text().split() == ["fastapi"]
    assert not re.search("Traceback|listens", one.text)
