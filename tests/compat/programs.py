"""FastChat's own programs as processes, from the environment that `make test` makes for them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import eventually, free_port

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv" / "compat" / "bin" / "python"
WHY_NOT = f"FastChat's own package is not there: `make test` installs it into {PYTHON.parents[1].relative_to(ROOT)}"
needs_fastchat = pytest.mark.skipif(not (PYTHON.parents[1] / ".made").exists(), reason=WHY_NOT)
START_S = 30.0  # a busy machine imports FastChat's programs for some seconds


class Program:
    """One process. url: where it listens, "" if it does not."""

    def __init__(self, folder: Path, name: str, arguments: list[str], port: int = 0) -> None:
        self.url = f"http://127.0.0.1:{port}" if port else ""
        self.log = folder / f"{name}-{port}.log"
        quick = {"FASTCHAT_WORKER_HEART_BEAT_INTERVAL": "1", "FASTCHAT_CONTROLLER_HEART_BEAT_EXPIRATION": "3"}
        standins = str(Path(__file__).parent / "standins")
        environment = {**os.environ, **quick, "PYTHONPATH": standins, "LOGDIR": str(folder), "PYTHONUNBUFFERED": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(PYTHON), *arguments], stdout=log, stderr=log, env=environment, cwd=folder
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


class Programs:
    """Starts them, and ends all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Program] = []

    def controller(self, port: int = 0) -> Program:
        port = port or free_port()
        program = self._start("controller", ["-m", "fastchat.serve.controller", *_address(port)], port)
        program.wait_for("/test_connection", "GET")
        return program

    def worker(self, controller: str, *models: str, port: int = 0) -> Program:
        port = port or free_port()
        options = ["--controller", controller, "--port", str(port), "--models", ",".join(models)]
        program = self._start("worker", [str(Path(__file__).parent / "worker.py"), *options], port)
        program.wait_for("/worker_get_status")
        return program

    def api_server(self, controller: str) -> Program:
        port = free_port()
        arguments = ["-m", "fastchat.serve.openai_api_server", *_address(port), "--controller-address", controller]
        program = self._start("api_server", arguments, port)
        program.wait_for("/docs", "GET")
        return program

    def test_message(self, controller: str, model: str, message: str) -> str:
        """What FastChat's test client prints."""
        options = ["--controller-address", controller, "--model-name", model, "--message", message]
        program = self._start("test_message", ["-m", "fastchat.serve.test_message", *options], 0)
        assert program.process.wait(START_S) == 0, program.said()
        return program.said()

    def _start(self, name: str, arguments: list[str], port: int) -> Program:
        program = Program(self._folder, name, arguments, port)
        self._running.append(program)
        return program

    def stop(self) -> None:
        for program in self._running:
            program.kill()


@contextlib.contextmanager
def programs_in(folder: Path) -> Iterator[Programs]:
    started = Programs(folder)
    try:
        yield started
    finally:
        started.stop()


def _address(port: int) -> list[str]:
    return ["--host", "127.0.0.1", "--port", str(port)]
