"""The processes under test: engines, nginx, our nodes. Each is ours, on 127.0.0.1, and ends with the bed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from bench import proc
from bench.load import KEY, chat
from hierarchy.errors import HierarchyError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HOST = "127.0.0.1"
MODEL = "bench"
START_DEADLINE_S = 60.0
END_DEADLINE_S = 8.0
POLL_S = 0.05
LOG_LINES = 8


class BedError(HierarchyError):
    """A process that is to be measured could not be started; the end of its log is in the message."""


@dataclass(frozen=True)
class Process:
    """One of our processes; `log` is the file with its output."""

    name: str
    url: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid


@dataclass(frozen=True)
class Target:
    """Something to send requests to, and the processes whose work it is, the first to be reached first."""

    name: str
    urls: tuple[str, ...]
    processes: tuple[Process, ...]

    @property
    def pids(self) -> list[int]:
        """With all descendants."""
        return proc.family(process.pid for process in self.processes)


class Bed:
    """Starts processes and ends them all. Their logs lie in a temporary folder.

    home: the copy of this project whose nodes are started.
    """

    def __init__(self, home: Path = ROOT) -> None:
        self.home = home
        self._stack = contextlib.ExitStack()
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hierarchy-bench-")))
        self.folder.chmod(0o755)  # nginx's worker process may be another user
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_DEADLINE_S
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(max(0.1, deadline - time.monotonic()))
            # The group is its own session: whatever it started itself goes too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.popen.wait()
            if process.popen.stdin is not None:
                process.popen.stdin.close()
        self._stack.close()

    def start(self, name: str, argv: Sequence[object], port: int, env: Mapping[str, str] | None = None) -> Process:
        """Start one process that will listen on `port`."""
        log = self.folder / f"{len(self._processes)}-{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.PIPE,  # workers and nodes end when it does, even if we are killed
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        process = Process(name, f"http://{HOST}:{port}", popen, log)
        self._processes.append(process)
        return process

    def worker(self, *options: object) -> Process:
        """An engine; options as of worker.py."""
        port = free_port()
        return self.start("worker", [sys.executable, HERE / "worker.py", port, *options], port)

    def node(
        self,
        name: str,
        *,
        engines: Sequence[Process] = (),
        parent: Process | None = None,
        link: str = "direct",
        port: int = 0,
        home: Path | None = None,
    ) -> Process:
        """A node with the default settings of `hierarchy serve`. link: who dials. home: another than the bed's."""
        port = port or free_port()
        argv = [sys.executable, "-m", "hierarchy", "serve", "--node", name, "--host", HOST, "--port", port]
        argv += [f"--engine=vllm={engine.url}" for engine in engines]
        argv += [f"--parent={parent.url}", "--link", link] if parent else []
        return self.start(name, [*argv, "--exit-with-parent"], port, {"PYTHONPATH": str(home or self.home)})

    def one_level(self, engines: Sequence[Process], name: str = "hierarchy", home: Path | None = None) -> Target:
        """One node in front of the engines."""
        return target(f"{name}, one level", self.node("solo", engines=engines, home=home))

    def three_levels(self, engines: Sequence[Process], name: str = "hierarchy", home: Path | None = None) -> Target:
        """root → site → rack → engines."""
        root = self.node("root", home=home)
        site = self.node("site", parent=root, home=home)
        return target(f"{name}, three levels", root, site, self.node("rack", engines=engines, parent=site, home=home))

    def two_levels(self, engines: Sequence[Process], link: str) -> Target:
        """root → site → engines, by a direct or a reverse link."""
        root = self.node("root")
        return target(f"two levels, link {link}", root, self.node("site", engines=engines, parent=root, link=link))

    def kill(self, process: Process) -> None:
        """End one process at once, without a farewell."""
        process.popen.kill()
        process.popen.wait()

    def nginx(self, engines: Sequence[Process]) -> Target | None:
        """nginx in front of the engines, if this machine has it."""
        program = find_nginx()
        if program is None:
            return None
        port = free_port()
        root = self.folder / f"nginx-{port}"
        root.mkdir()
        root.chmod(0o755)
        config = root / "nginx.conf"
        config.write_text(nginx_config(root, port, [engine.url for engine in engines], proc.raise_descriptor_limit()))
        return target("nginx", self.start("nginx", [program, "-p", root, "-c", config, "-e", "stderr"], port))

    def three_nginx(self, engines: Sequence[Process]) -> Target | None:
        """nginx → nginx → nginx → engines."""
        chain: list[Process] = []
        for _ in range(3):
            level = self.nginx(chain[:1] or engines)
            if level is None:
                return None
            chain = [*level.processes, *chain]
        return target("nginx, three levels", *chain)

    async def ready(self, targets: Sequence[Target], model: str = MODEL) -> None:
        """Wait until each answers a request.

        Raises:
            BedError: one ended, or did not answer in time.
        """
        body = chat(model, stream=False, size=200)
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
            for waited in targets:
                await self._until(waited, lambda url: http.post(f"{url}/v1/chat/completions", content=body, timeout=5))

    async def _until(self, waited: Target, ask: Callable[[str], Awaitable[httpx.Response]]) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        for url in waited.urls:
            while True:
                said = "no answer"
                with contextlib.suppress(httpx.HTTPError):
                    answer = await ask(url)
                    if answer.status_code == 200:
                        break
                    said = f"status {answer.status_code}"
                self._check(waited, said if time.monotonic() > deadline else "")
                await asyncio.sleep(POLL_S)

    @staticmethod
    def _check(waited: Target, too_late: str) -> None:
        for process in waited.processes:
            status = process.popen.poll()
            if status is None and not too_late:
                continue
            why = f"ended with status {status}" if status is not None else f"is not up after {START_DEADLINE_S:g} s"
            last = "\n".join(process.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise BedError(f"{process.name} {why}{f' ({too_late})' if too_late else ''}; the end of its log:\n{last}")


def target(name: str, *processes: Process) -> Target:
    """A target that is reached through its first process."""
    return Target(name, (processes[0].url,), processes)


def direct(engines: Sequence[Process]) -> Target:
    """The engines themselves, without any router."""
    return Target("direct to the engines", tuple(engine.url for engine in engines), tuple(engines))


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def find_nginx() -> str | None:
    """Its path; a user's PATH often lacks the folder where Debian puts it."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/nginx/sbin")


def nginx_config(root: Path, port: int, engines: Sequence[str], descriptors: int) -> str:
    """nginx.conf with its blanks filled in."""
    servers = "\n        ".join(f"server {url.removeprefix('http://')};" for url in engines)
    template = string.Template((HERE / "nginx.conf").read_text())
    return template.substitute(root=root, port=port, servers=servers, descriptors=min(descriptors, 100_000))
