"""Real processes of `hierarchy`, and the faults that can be caused in them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from tests.chaos import holds
from tests.chaos.load import MODEL
from tests.support import eventually, free_port

TIMEOUT_S = 20.0
IMPORTS_S = 90.0  # as long as a process that was not forked may take to listen, on a busy machine
ROOT = Path(__file__).parents[2]


class Process:
    """One process, which can be started again at the same address.

    files: the limit of its file descriptors. is_forked: it begins as a copy of another one, which is faster; its memory
    then grows with each page of the other's in which it counts a reference.
    """

    def __init__(
        self,
        processes: Processes,
        name: str,
        argv: list[str],
        port: int,
        files: int | None = None,
        *,
        is_forked: bool = True,
    ) -> None:
        self.name = name
        self.kind = "simulated"  # of an engine
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = processes.folder / f"{name}.log"
        self._processes = processes
        self._argv = argv
        self._files = files
        self._is_forked = is_forked
        self.pid = 0

    def start(self) -> Self:
        """Start it, and wait until it listens."""
        self.spawn()
        eventually(self.responds, f"{self.name} to listen", TIMEOUT_S if self._is_forked else IMPORTS_S)
        return self

    def spawn(self) -> None:
        """Start it without waiting."""
        if self._is_forked:
            self.pid = self._processes.fork(self._argv, self.log, self._files)
        else:
            self.pid = self._processes.execute(self._argv, self.log)

    def responds(self) -> bool:
        """Whether `/health` has status 200."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=1.0).status_code == 200
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process still exists."""
        if self.pid:  # 0, of a process that could not be started, would be everything in the group of the tests
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, as from the kernel when memory is short. Waits for the end."""
        self.signal(signal.SIGKILL)
        self.wait_gone()

    def terminate(self) -> None:
        """SIGTERM."""
        self.signal(signal.SIGTERM)

    def suspend(self) -> None:
        """SIGSTOP: connections stay open, but get no responses."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    @property
    def exists(self) -> bool:
        """Whether the process has not ended."""
        if not self.pid:
            return False
        self._processes.reap()
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def wait_gone(self, timeout_s: float = TIMEOUT_S) -> float:
        """Wait until it has ended. Returns how long that took, in seconds."""
        start = time.monotonic()
        eventually(lambda: not self.exists, f"{self.name} to end", timeout_s)
        return time.monotonic() - start

    # -- its state -------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return httpx.get(self.url + path, timeout=5.0).json()

    def faults(self, *faults: dict[str, Any]) -> None:
        """Replace the faults of a simulated engine."""
        httpx.post(f"{self.url}/simulated/faults", json=list(faults), timeout=5.0).raise_for_status()

    def served_by(self) -> set[str]:
        """Paths of the engines that the node can reach."""
        with contextlib.suppress(httpx.HTTPError):
            rows = self.get("/v1/models")["data"]
            return {path for row in rows for path in row["served_by"]}
        return set()

    def samples(self) -> dict[str, float]:
        """The metrics: name with labels → value."""
        text = httpx.get(f"{self.url}/metrics", timeout=5.0).text
        return {
            key: float(value)
            for key, _, value in (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")
        }

    def total(self, name: str, having: str = "") -> float:
        """The sum of a metric over all labels, or over those that contain the text `having`."""
        return sum(value for key, value in self.samples().items() if key.partition("{")[0] == name and having in key)

    def longest_hold(self) -> holds.Hold:
        """The longest step of a node's event loop; 0 seconds of an engine."""
        held_s = 0.0
        with contextlib.suppress(httpx.HTTPError, ValueError):
            held_s = self.samples().get(holds.METRIC, 0.0)
        return holds.longest(self.name, self.log, held_s)

    def loop_cpu_s(self) -> float:
        """CPU time of the thread that runs its event loop, so far."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def rss_bytes(self) -> int:
        """Its memory, without what it shares with the process that it was forked from."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return 1024 * int(re.findall(r"Private_Dirty:\s+(\d+)", text)[0])

    def error_lines(self) -> list[str]:
        """Lines of its log that report a defect."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [line for line in lines if "Traceback" in line or "CRITICAL" in line or "exception" in line.lower()]


class Processes:
    """Starts processes and ends them all."""

    def __init__(self, folder: Path, inside: Sequence[str] = ()) -> None:
        """inside: the beginning of a command that runs another one in a namespace."""
        self.folder = folder
        self.processes: list[Process] = []
        self._executed: list[subprocess.Popen[bytes]] = []
        self._nursery = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.chaos.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "fork_server.log").open("w"),
            cwd=ROOT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.processes:
            one.resume()
            one.signal(signal.SIGKILL)
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()
        self._nursery.wait(TIMEOUT_S)
        for executed in self._executed:
            executed.wait(TIMEOUT_S)

    def fork(self, argv: list[str], log: Path, files: int | None) -> int:
        """Start a process. Returns its pid."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._nursery.stdin.write(json.dumps({"argv": argv, "log": str(log), "files": files}) + "\n")
            self._nursery.stdin.flush()
        pid = self._nursery.stdout.readline()
        assert pid, f"the fork server ended: {(self.folder / 'fork_server.log').read_text()}"
        return int(pid)

    def execute(self, argv: list[str], log: Path) -> int:
        """Start a process that shares nothing. Returns its pid."""
        command = [sys.executable, "-m", "hierarchy", *argv, "--exit-with-parent"]
        with log.open("a") as out:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out, cwd=ROOT)
        self._executed.append(process)
        return process.pid

    def reap(self) -> None:
        """Let those that have ended go: the system keeps a process until its parent has read its status."""
        for process in self._executed:
            process.poll()

    def add(
        self, name: str, argv: list[str], port: int, files: int | None = None, *, is_forked: bool = True
    ) -> Process:
        """Start a process and wait until it listens."""
        process = Process(self, name, argv, port, files, is_forked=is_forked)
        self.processes.append(process)
        return process.start()

    def engine(
        self,
        name: str,
        *,
        slots: int = 64,
        tokens_per_s: float = 200.0,
        tokens: int = 16,
        models: Sequence[str] = (MODEL,),
    ) -> Process:
        """Start a simulated engine."""
        port = free_port()
        argv = ["engine", "simulated", "--port", str(port), "--name", name, "--slots", str(slots)]
        argv += ["--decode-tokens-per-s", str(tokens_per_s), "--answer-tokens", str(tokens)]
        for model in models:
            argv += ["--model", model]
        return self.add(name, [*argv, "--prefill-tokens-per-s", "1000000"], port)

    def local_engine(self, name: str, model: str, *, slots: int = 4) -> Process:
        """Start llama.cpp with the default model, served as `model`."""
        port = free_port()
        argv = ["engine", "local", "--port", str(port), "--name", name, "--slots", str(slots), "--alias", model]
        engine = self.add(name, argv, port)
        engine.kind = "llamacpp"
        return engine

    def engines(self, prefix: str, count: int, **options: Any) -> list[Process]:
        """Start several, named `prefix1`, `prefix2` and so on."""
        return [self.engine(f"{prefix}{number}", **options) for number in range(1, count + 1)]

    def node(
        self,
        name: str,
        *,
        parents: tuple[Process, ...] = (),
        engines: list[Process] | None = None,
        replica_of: str | None = None,
        files: int | None = None,
        **settings: Any,
    ) -> Process:
        """Start a node. With `settings`, from a YAML file; such a node cannot have parents here."""
        port = free_port()
        group = replica_of or name
        if not settings:
            argv = ["serve", "--node", group, "--port", str(port), "--host", "127.0.0.1", "--dispatch-method", "p2c"]
            for parent in parents:
                argv += ["--parent", parent.url]
            for engine in engines or ():
                argv += ["--engine", f"{engine.kind}={engine.url}"]
            return self.add(name, argv + (["--replica"] if replica_of else []), port, files)
        assert not parents, "a node with settings must be a root here"
        path = self.folder / f"{name}.yaml"
        defaults = json.dumps({"dispatch": "p2c", **settings})
        lines = [f"version: 1\ndefaults: {defaults}\nnodes: {{{name}: {{listen: '127.0.0.1:{port}'}}}}\nengines:\n"]
        lines += [f"  {e.name}: {{parent: {name}, kind: {e.kind}, url: '{e.url}'}}\n" for e in engines or ()]
        if not engines:
            lines += [f"  unreachable: {{parent: {name}, kind: simulated, url: 'http://127.0.0.1:{free_port()}'}}\n"]
        path.write_text("".join(lines))
        return self.add(name, ["serve", str(path), "--node", name], port, files)


def wait_for(node: Process, engines: int, timeout_s: float = TIMEOUT_S) -> float:
    """Wait until a node can reach this number of engines. Returns how long that took, in seconds."""
    start = time.monotonic()
    eventually(lambda: len(node.served_by()) == engines, f"{node.name} to see {engines} engines", timeout_s)
    return time.monotonic() - start
