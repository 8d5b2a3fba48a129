"""FastChat's own programs as processes, from the environment that `make test` makes for them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import eventually

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv" / "compat" / "bin" / "python"


def _why_not() -> str:
    """Why FastChat's programs cannot be run here; "" if they can."""
    failed = PYTHON.parents[1] / "failed"
    if failed.exists():
        return f"FastChat's own package could not be installed: {failed.read_text().strip()}"
    if not (PYTHON.parents[1] / ".made").exists():
        return f"FastChat's own package is not there: `make test` installs it into {PYTHON.parents[1]}"
    return ""


WHY_NOT = _why_not()
needs_fastchat = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
START_S = 30.0  # a busy machine imports FastChat's programs for some seconds


class Program:
    """One process. url: where it listens, "" if it does not."""

    def __init__(self, folder: Path, name: str, arguments: list[str], port: int = 0) -> None:
        self.url = f"http://127.0.0.1:{port}" if port else ""
        self.log = folder / f"{name}-{port}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(PYTHON), *arguments], stdout=log, stderr=log, env=environment(folder), cwd=folder
            )

    def wait_for(self, path: str, method: str = "POST") -> None:
        """Until it answers there."""

        def answers() -> bool:
            assert self.process.poll() is None, self.said()
            try:
                return httpx.request(method, self.url + path, json={}).status_code < 500
            except httpx.HTTPError:
                return False

        eventually(answers, f"{self.url}{path}: {self.said()}", START_S)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def environment(folder: Path) -> dict[str, str]:
    """Of FastChat's programs: quick beats, their logs in `folder`, and no proxy, which `requests` would believe."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | {
        "FASTCHAT_WORKER_HEART_BEAT_INTERVAL": "1",
        "FASTCHAT_CONTROLLER_HEART_BEAT_EXPIRATION": "3",
        "PYTHONPATH": str(Path(__file__).parent / "standins"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "LOGDIR": str(folder),
    }


class Programs:
    """Starts them, and ends all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Program] = []
        self._held: list[socket.socket] = []

    def port(self) -> int:
        """One on which a program may listen, sooner or later, and again.

        It stays bound here, without listening: nobody else gets it meanwhile, not even a connection that goes out.
        """
        held = socket.socket()
        self._held.append(held)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        number: int = held.getsockname()[1]
        return number

    def controller(self, port: int = 0) -> Program:
        port = port or self.port()
        program = self._start("controller", ["-m", "fastchat.serve.controller", *_address(port)], port)
        program.wait_for("/test_connection", "GET")
        return program

    def worker(self, controller: str, *models: str, port: int = 0, each: bool = False) -> Program:
        """each: as FastChat's multi-model worker, in which every model registers for itself."""
        port = port or self.port()
        options = ["--controller", controller, "--port", str(port), "--models", ",".join(models)]
        options += ["--each"] if each else []
        program = self._start("worker", [str(Path(__file__).parent / "worker.py"), *options], port)
        program.wait_for("/worker_get_status")
        return program

    def api_server(self, controller: str) -> Program:
        port = self.port()
        arguments = ["-m", "fastchat.serve.openai_api_server", *_address(port), "--controller-address", controller]
        program = self._start("api_server", arguments, port)
        program.wait_for("/docs", "GET")
        return program

    def test_message(self, controller: str, model: str, message: str, *, worker: str = "") -> str:
        """What FastChat's test client prints. worker: the address to go to, without asking the controller."""
        options = ["--controller-address", controller, "--model-name", model, "--message", message]
        options += ["--worker-address", worker] if worker else []
        return self.run("-m", "fastchat.serve.test_message", *options)

    def run(self, *arguments: str, told: str = "") -> str:
        """What a program prints that ends by itself. told: its standard input."""
        done = subprocess.run(
            [str(PYTHON), *arguments],
            input=told,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=environment(self._folder),
            cwd=self._folder,
            timeout=START_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def logs(self) -> dict[str, str]:
        """What each said last, by the name of its log."""
        return {program.log.name: program.said() for program in self._running}

    def _start(self, name: str, arguments: list[str], port: int) -> Program:
        program = Program(self._folder, name, arguments, port)
        self._running.append(program)
        return program

    def stop(self) -> None:
        for program in self._running:
            program.kill()
        for held in self._held:
            held.close()


@contextlib.contextmanager
def programs_in(folder: Path) -> Iterator[Programs]:
    started = Programs(folder)
    try:
        yield started
    finally:
        started.stop()


def _address(port: int) -> list[str]:
    return ["--host", "127.0.0.1", "--port", str(port)]
