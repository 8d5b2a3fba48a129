"""Runs FastChat's own programs, from the environment that `make test-all` creates for them."""

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


def _obstacle() -> str:
    """Why FastChat's programs cannot run here; "" if they can."""
    failed = PYTHON.parents[1] / "failed"
    if failed.exists():
        return f"FastChat could not be installed: {failed.read_text().strip()}"
    if not (PYTHON.parents[1] / ".made").exists():
        return f"FastChat not installed; make test-all installs it into {PYTHON.parents[1]}"
    return ""


OBSTACLE = _obstacle()
needs_fastchat = [pytest.mark.slow, pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE)]
START_S = 30.0  # importing FastChat's programs takes some seconds on a busy machine


class Program:
    """A process. url: where it listens; "" if it does not. port: 0 if it does not listen."""

    def __init__(self, folder: Path, name: str, arguments: list[str], port: int = 0) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}" if port else ""
        self.log = folder / f"{name}-{port}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(PYTHON), *arguments], stdout=log, stderr=log, env=environment(folder), cwd=folder
            )

    def wait_for(self, path: str, method: str = "POST") -> None:
        """Wait until it responds to a request."""

        def responds() -> bool:
            assert self.process.poll() is None, self.log_end()
            try:
                return httpx.request(method, self.url + path, json={}).status_code < 500
            except httpx.HTTPError:
                return False

        eventually(responds, f"{self.url}{path}: {self.log_end()}", START_S)

    def log_end(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait()


def environment(folder: Path) -> dict[str, str]:
    """For FastChat's programs: short intervals, logs in `folder`, and no proxy, which `requests` would use."""
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
    """Starts programs and ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Program] = []
        self._held: list[socket.socket] = []

    def port(self) -> int:
        """A port for a program, which may listen on it later and more than once.

        It stays bound here, without listening, so that no other socket gets it, not even one of a client.
        """
        held = socket.socket()
        self._held.append(held)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        number: int = held.getsockname()[1]
        return number

    def controller(self, port: int = 0) -> Program:
        """Start FastChat's controller."""
        port = port or self.port()
        program = self._start("controller", ["-m", "fastchat.serve.controller", *_address(port)], port)
        program.wait_for("/test_connection", "GET")
        return program

    def worker(self, controller: str, *models: str, port: int = 0, each: bool = False) -> Program:
        """Start the tests' worker. each: as FastChat's multi-model worker, in which each model registers separately."""
        port = port or self.port()
        options = ["--controller", controller, "--port", str(port), "--models", ",".join(models)]
        options += ["--each"] if each else []
        program = self._start("worker", [str(Path(__file__).parent / "worker.py"), *options], port)
        program.wait_for("/worker_get_status")
        return program

    def api_server(self, controller: str) -> Program:
        """Start FastChat's OpenAI API server."""
        port = self.port()
        arguments = ["-m", "fastchat.serve.openai_api_server", *_address(port), "--controller-address", controller]
        program = self._start("api_server", arguments, port)
        program.wait_for("/docs", "GET")
        return program

    def test_message(self, controller: str, model: str, message: str, *, worker: str = "") -> str:
        """Run FastChat's test client. Returns its output. worker: the address to use instead of the controller's."""
        options = ["--controller-address", controller, "--model-name", model, "--message", message]
        options += ["--worker-address", worker] if worker else []
        return self.run("-m", "fastchat.serve.test_message", *options)

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run a program to its end. Returns its output."""
        done = subprocess.run(
            [str(PYTHON), *arguments],
            input=stdin,
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
        """The end of each log, by its name."""
        return {program.log.name: program.log_end() for program in self._running}

    def _start(self, name: str, arguments: list[str], port: int) -> Program:
        program = Program(self._folder, name, arguments, port)
        self._running.append(program)
        return program

    def stop(self) -> None:
        """End all programs."""
        for program in self._running:
            program.kill()
        for held in self._held:
            held.close()


@contextlib.contextmanager
def programs_in(folder: Path) -> Iterator[Programs]:
    """Programs whose logs are in `folder`."""
    started = Programs(folder)
    try:
        yield started
    finally:
        started.stop()


def _address(port: int) -> list[str]:
    return ["--host", "127.0.0.1", "--port", str(port)]
