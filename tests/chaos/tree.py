"""Trees of real processes, and what can be done to them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support import eventually, free_port

PATIENCE_S = 20.0
MODEL = "simulated"


class Process:
    """One process of `hierarchy`, which can be ended and started again at the same address."""

    def __init__(self, trees: Trees, name: str, argv: list[str], port: int, files: int | None = None) -> None:
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = trees.folder / f"{name}.log"
        self._trees = trees
        self._argv = argv
        self._files = files
        self.pid = 0

    def start(self) -> Self:
        """Returns once it listens."""
        self.spawn()
        eventually(self.answers, f"{self.name} to listen", PATIENCE_S)
        return self

    def spawn(self) -> None:
        self.pid = self._trees.fork(self._argv, self.log, self._files)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=1.0).status_code == 200
        return False

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As the kernel does when memory is short, or a plug that is pulled."""
        self.signal(signal.SIGKILL)
        self.wait_gone()

    def stop(self) -> None:
        self.signal(signal.SIGTERM)

    def hang(self) -> None:
        self.signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.signal(signal.SIGCONT)

    @property
    def lives(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def wait_gone(self, patience_s: float = PATIENCE_S) -> float:
        """Returns the seconds that it took."""
        began = time.monotonic()
        eventually(lambda: not self.lives, f"{self.name} to end", patience_s)
        return time.monotonic() - began

    # -- what it says ----------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        return httpx.get(self.url + path, timeout=5.0).json()

    def faults(self, *faults: dict[str, Any]) -> None:
        """Of a simulated engine."""
        httpx.post(f"{self.url}/simulated/faults", json=list(faults), timeout=5.0).raise_for_status()

    def served_by(self) -> set[str]:
        with contextlib.suppress(httpx.HTTPError):
            rows = self.get("/v1/models")["data"]
            return {path for row in rows for path in row["served_by"]}
        return set()

    def samples(self) -> dict[str, float]:
        """The page of metrics: a line's name and labels, and its value."""
        text = httpx.get(f"{self.url}/metrics", timeout=5.0).text
        return {
            key: float(value)
            for key, _, value in (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")
        }

    def total(self, name: str, having: str = "") -> float:
        """The sum of one metric over all labels, or over those that hold a text."""
        return sum(value for key, value in self.samples().items() if key.partition("{")[0] == name and having in key)

    def rss_bytes(self) -> int:
        """Of its own, without what it shares with the process that it was forked from."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return 1024 * int(re.findall(r"Private_Dirty:\s+(\d+)", text)[0])

    def complaints(self) -> list[str]:
        """Lines of its log that tell of a defect."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [line for line in lines if "Traceback" in line or "CRITICAL" in line or "exception" in line.lower()]


class Trees:
    """Starts processes, and ends all of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "nursery.log").open("w"),
            cwd=Path(__file__).parents[2],
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.wake()
            process.signal(signal.SIGKILL)
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()
        self._nursery.wait(PATIENCE_S)

    def fork(self, argv: list[str], log: Path, files: int | None) -> int:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps({"argv": argv, "log": str(log), "files": files}) + "\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())

    def add(self, name: str, argv: list[str], port: int, files: int | None = None) -> Process:
        process = Process(self, name, argv, port, files)
        self.processes.append(process)
        return process.start()

    def engine(self, name: str, *, slots: int = 64, tokens_per_s: float = 200.0, tokens: int = 16) -> Process:
        """A simulated engine."""
        port = free_port()
        argv = ["engine", "simulated", "--port", str(port), "--name", name, "--slots", str(slots)]
        argv += ["--decode-tokens-per-s", str(tokens_per_s), "--answer-tokens", str(tokens)]
        return self.add(name, [*argv, "--prefill-tokens-per-s", "1000000"], port)

    def engines(self, prefix: str, count: int, **options: Any) -> list[Process]:
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
        """A node, from a file of its own. It registers with processes that stand elsewhere, so those are flags."""
        port = free_port()
        group = replica_of or name
        if not settings:
            argv = ["serve", "--node", group, "--port", str(port), "--host", "127.0.0.1", "--dispatch-method", "p2c"]
            for parent in parents:
                argv += ["--parent", parent.url]
            for engine in engines or ():
                argv += ["--engine", f"simulated={engine.url}"]
            return self.add(name, argv + (["--replica"] if replica_of else []), port, files)
        assert not parents, "a node with settings of its own is a root here"
        path = self.folder / f"{name}.yaml"
        words = json.dumps({"dispatch": "p2c", **settings})
        lines = [f"version: 1\ndefaults: {words}\nnodes: {{{name}: {{listen: '127.0.0.1:{port}'}}}}\nengines:\n"]
        lines += [f"  {e.name}: {{parent: {name}, kind: simulated, url: '{e.url}'}}\n" for e in engines or ()]
        if not engines:
            lines += [f"  nobody: {{parent: {name}, kind: simulated, url: 'http://127.0.0.1:{free_port()}'}}\n"]
        path.write_text("".join(lines))
        return self.add(name, ["serve", str(path), "--node", name], port, files)


def wait_for(node: Process, engines: int, patience_s: float = PATIENCE_S) -> float:
    """Until a node sees so many engines. Returns the seconds that it took."""
    began = time.monotonic()
    eventually(lambda: len(node.served_by()) == engines, f"{node.name} to see {engines} engines", patience_s)
    return time.monotonic() - began
