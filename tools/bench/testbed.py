"""The processes under test: engines, nginx and nodes, all on 127.0.0.1. They end with the test bed."""

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

from bench import procfs
from bench.load import KEY, chat
from hierarchy.errors import HierarchyError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HOST = "127.0.0.1"
MODEL = "bench"
START_DEADLINE_S = 60.0
END_DEADLINE_S = 8.0
POLL_S = 0.05
LOG_LINES = 8  # in an error message


class BenchError(HierarchyError):
    """A measurement is not possible, for example because a process did not start."""


@dataclass(frozen=True)
class Process:
    """A process of the test bed."""

    name: str
    url: str
    popen: subprocess.Popen[bytes]
    log: Path  # its output

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid


@dataclass(frozen=True)
class Target:
    """Something to send requests to."""

    name: str
    #: clients use them in turn
    urls: tuple[str, ...]
    #: the processes whose CPU time is measured, the entry node first
    processes: tuple[Process, ...]

    @property
    def pids(self) -> list[int]:
        """Of its processes and all their descendants."""
        return procfs.family(process.pid for process in self.processes)


class TestBed:
    """Starts processes and ends them all. Their logs are in a temporary folder.

    home: the copy of this project whose nodes are started.
    """

    def __init__(self, home: Path = ROOT) -> None:
        self.home = home
        self._stack = contextlib.ExitStack()
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hierarchy-bench-")))
        self.folder.chmod(0o755)  # nginx's worker process may run as another user
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
            # The process leads its own session: this kills what it started as well.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.popen.wait()
            if process.popen.stdin is not None:
                process.popen.stdin.close()
        self._stack.close()

    def start(self, name: str, argv: Sequence[object], port: int, env: Mapping[str, str] | None = None) -> Process:
        """Start a process that will listen on `port`."""
        log = self.folder / f"{len(self._processes)}-{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.PIPE,  # engines and nodes end when it closes, even if this process is killed
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        process = Process(name, f"http://{HOST}:{port}", popen, log)
        self._processes.append(process)
        return process

    def engine(self, *options: object) -> Process:
        """Start an engine. options: of engine.py."""
        port = free_port()
        return self.start("engine", [sys.executable, HERE / "engine.py", port, *options], port)

    def node(
        self,
        name: str,
        *,
        engines: Sequence[Process] = (),
        parent: Process | None = None,
        link: str = "direct",
        port: int = 0,
        home: Path | None = None,
        policy: str = "",
    ) -> Process:
        """Start a node with the default settings of `hierarchy serve`.

        port: 0 for any free one. home: as in the constructor, if another copy is used. policy: "" for the default.
        """
        port = port or free_port()
        argv = [sys.executable, "-m", "hierarchy", "serve", "--node", name, "--host", HOST, "--port", port]
        argv += [f"--engine=vllm={engine.url}" for engine in engines]
        argv += [f"--parent={parent.url}", "--link", link] if parent else []
        argv += ["--dispatch-method", policy] if policy else []
        return self.start(name, [*argv, "--exit-with-parent"], port, {"PYTHONPATH": str(home or self.home)})

    def one_level(self, engines: Sequence[Process], name: str = "hierarchy", home: Path | None = None) -> Target:
        """Start one node in front of the engines."""
        return target(f"{name}, one level", self.node("solo", engines=engines, home=home))

    def three_levels(
        self, engines: Sequence[Process], name: str = "hierarchy", home: Path | None = None, policy: str = ""
    ) -> Target:
        """Start root → site → rack → engines."""
        root = self.node("root", home=home, policy=policy)
        site = self.node("site", parent=root, home=home, policy=policy)
        rack = self.node("rack", engines=engines, parent=site, home=home, policy=policy)
        return target(f"{name}, three levels", root, site, rack)

    def two_levels(self, engines: Sequence[Process], link: str) -> Target:
        """Start root → site → engines, with a direct or a reverse link."""
        root = self.node("root")
        return target(f"two levels, link {link}", root, self.node("site", engines=engines, parent=root, link=link))

    def kill(self, process: Process) -> None:
        """Kill a process with SIGKILL."""
        process.popen.kill()
        process.popen.wait()

    def nginx(self, engines: Sequence[Process]) -> Target | None:
        """Start nginx in front of the engines; None if it is not installed."""
        program = find_nginx()
        if program is None:
            return None
        port = free_port()
        root = self.folder / f"nginx-{port}"
        root.mkdir()
        root.chmod(0o755)
        config = root / "nginx.conf"
        config.write_text(nginx_config(root, port, [engine.url for engine in engines], procfs.raise_descriptor_limit()))
        return target("nginx", self.start("nginx", [program, "-p", root, "-c", config, "-e", "stderr"], port))

    def three_nginx(self, engines: Sequence[Process]) -> Target | None:
        """Start nginx → nginx → nginx → engines; None if it is not installed."""
        chain: list[Process] = []
        for _ in range(3):
            level = self.nginx(chain[:1] or engines)
            if level is None:
                return None
            chain = [*level.processes, *chain]
        return target("nginx, three levels", *chain)

    async def ready(self, targets: Sequence[Target], model: str = MODEL) -> None:
        """Wait until each target responds to a request.

        Raises:
            BenchError: a process ended or did not respond in time; has the end of its log.
        """
        body = chat(model, stream=False, size=200)
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
            for target in targets:
                await self._wait_for(
                    target, lambda url: http.post(f"{url}/v1/chat/completions", content=body, timeout=5)
                )

    async def _wait_for(self, target: Target, request: Callable[[str], Awaitable[httpx.Response]]) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        for url in target.urls:
            while True:
                seen = "no response"
                with contextlib.suppress(httpx.HTTPError):
                    response = await request(url)
                    if response.status_code == 200:
                        break
                    seen = f"status {response.status_code}"
                self._check(target, seen if time.monotonic() > deadline else "")
                await asyncio.sleep(POLL_S)

    @staticmethod
    def _check(target: Target, too_late: str) -> None:
        """Raise BenchError if a process ended, or if `too_late`, which is what was seen when the deadline passed."""
        for process in target.processes:
            status = process.popen.poll()
            if status is None and not too_late:
                continue
            reason = f"ended with status {status}" if status is not None else f"is not up after {START_DEADLINE_S:g} s"
            last = "\n".join(process.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise BenchError(
                f"{process.name} {reason}{f' ({too_late})' if too_late else ''}; the end of its log:\n{last}"
            )


def target(name: str, *processes: Process) -> Target:
    """A target whose first process receives the requests."""
    return Target(name, (processes[0].url,), processes)


def direct(engines: Sequence[Process]) -> Target:
    """The engines without a router."""
    return Target("direct to the engines", tuple(engine.url for engine in engines), tuple(engines))


def free_port() -> int:
    """A free port of 127.0.0.1."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def find_nginx() -> str | None:
    """Path of nginx; a user's PATH often lacks the folder where Debian installs it."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/nginx/sbin")


def nginx_config(root: Path, port: int, engines: Sequence[str], descriptors: int) -> str:
    """nginx.conf with its placeholders filled in. descriptors: how many the system allows."""
    servers = "\n        ".join(f"server {url.removeprefix('http://')};" for url in engines)
    template = string.Template((HERE / "nginx.conf").read_text())
    return template.substitute(root=root, port=port, servers=servers, descriptors=min(descriptors, 100_000))
