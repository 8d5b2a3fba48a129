"""`hierarchy engine`, each in a process of its own, and the real engine among them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hierarchy.cli import engine as engine_commands
from hierarchy.engines import model_store
from hierarchy.engines.kinds import ADAPTERS
from hierarchy.engines.probe_client import ProbeClient
from hierarchy.errors import UsageError
from hierarchy.runtime.resolver import Resolver
from hierarchy.wire.status import NodeStatus
from tests.cli.program import fails
from tests.support import DEADLINE_S, eventually, eventually_async, free_port

RUN = """
import sys
import time
from hierarchy.cli.engine import engine_app
from hierarchy.errors import UsageError
try:
    engine_app()
except UsageError as error:
    sys.exit(str(error))
"""
NO_XLLAMACPP = "xllamacpp not installed; pip install 'hierarchy-llm[local]'"
START_S = 60.0  # it may fetch a model first


class Command:
    """A running command, and its log so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def url(self) -> str:
        def logged() -> str | None:
            assert self.process.poll() is None, "".join(self.log)
            found = re.search(r"serv(?:es|ing) .* at (http://\S+)", "".join(self.log))
            return found and found[1]

        return str(eventually(logged, "the engine to serve", START_S))

    def ended(self) -> int:
        return self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def command(*arguments: str) -> Iterator[Command]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "NO_COLOR": "1"},
    )
    running = Command(process)
    try:
        yield running
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_simulated_serves_until_a_signal_and_ends_with_status_0(number: signal.Signals) -> None:
    with command("simulated", "--port", "0", "--model", "m", "--model", "n", "--name", "gpu-1") as engine:
        url = engine.url()
        response = httpx.get(f"{url}/v1/models")
        assert [model["id"] for model in response.json()["data"]] == ["m", "n"]
        assert response.headers.get_list("server") == ["hierarchy-simulated"]
        assert "INFO gpu-1: simulated engine" in engine.log[0]
        engine.process.send_signal(number)
        assert engine.ended() == 0
    assert len(engine.log) == 1, engine.log


def test_simulated_ends_promptly_while_requests_hang() -> None:
    with command("simulated", "--port", "0", "--model", "m", "--fault", '{"hang_after_tokens": 1}') as engine:
        body = {"model": "m", "prompt": "x", "stream": True}
        with httpx.stream("POST", f"{engine.url()}/v1/completions", json=body) as response:
            pieces = response.iter_raw()  # kept, since an iterator that is deleted closes its stream
            next(pieces)
            engine.process.terminate()
            assert engine.ended() == 0
    assert "Traceback" not in "".join(engine.log)


def test_simulated_ends_with_its_parent() -> None:
    with command("simulated", "--port", "0", "--exit-with-parent") as engine:
        engine.url()
        assert engine.process.stdin is not None
        engine.process.stdin.close()
        assert engine.ended() == 0


def test_an_error_is_one_line_without_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with command("simulated", "--port", str(port)) as engine:
            assert engine.ended() != 0
            eventually(lambda: engine.log)
    assert len(engine.log) == 1
    assert re.search(rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use", engine.log[0])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["simulated", "--port", "0", "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid:0"),
        (["simulated", "--port", "0", "--fault", '{"statu": 503}'], "--fault: statu"),
        (["local", "--port", "{taken}"], "cannot listen on 127.0.0.1:{taken}"),
        (["local", "--port", "0", "--model", "no-such-model"], "smollm2-135m"),
        (["fetch", "no-such-model"], "smollm2-135m"),
        (["simulated", "--port", "0", "--role", "vlm"], "--role vlm: no such role; choose one of vllm, router, ollama"),
    ],
)
def test_errors_name_what_is_wrong(arguments: list[str], part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if arguments[0] == "local":
        pytest.importorskip("xllamacpp", reason=NO_XLLAMACPP)
    monkeypatch.setattr(engine_commands, "_prepare", lambda *_: None)  # the logs and signals of this process
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        line = fails("engine", *(argument.replace("{taken}", taken) for argument in arguments), status=2)
    assert part.replace("{taken}", taken) in line


@pytest.fixture(scope="module")
def real_model() -> Path:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip(NO_XLLAMACPP)
    try:
        return model_store.find_model(model_store.DEFAULT)
    except UsageError as error:
        pytest.skip(f"the real engine: {error}")


def test_local_serves_is_probed_and_ends_at_sigterm(real_model: Path) -> None:
    with command("local", "--port", str(free_port()), "--model", str(real_model), "--alias", "tiny") as engine:
        url = engine.url()
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
        response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).raise_for_status().json()
        assert response["choices"][0]["message"]["content"].strip()
        assert 0 < response["usage"]["completion_tokens"] <= 8
        with httpx.stream(
            "POST",
            f"{url}/v1/chat/completions",
            json={**body, "max_tokens": 2000, "ignore_eos": True, "stream": True},
            timeout=60,
        ) as stream:
            lines = stream.iter_lines()  # kept, since an iterator that is deleted closes its stream
            assert json.loads(next(lines).removeprefix("data: "))["model"] == "tiny"
            status = _read_until_busy(url)
            engine.process.terminate()
            assert engine.ended() == 0, "a running stream must not delay its end"
    (model,) = status.models
    assert (model.name, model.api, model.slots, model.queue_length) == ("tiny", "openai", 4, 1)
    assert not any(" E " in line for line in engine.log), engine.log


def _read_until_busy(url: str) -> NodeStatus:
    async def run() -> NodeStatus:
        http = ProbeClient(url, time.monotonic, Resolver())

        async def busy() -> NodeStatus | None:
            status = await ADAPTERS["local"].read(http, 1.0)
            return status if status.queue_length else None

        status = await eventually_async(busy, "the request to be counted")
        assert isinstance(status, NodeStatus)
        return status

    return asyncio.run(run())


def test_local_ends_with_its_parent_even_while_it_loads(real_model: Path) -> None:
    with command("local", "--port", "0", "--model", str(real_model), "--exit-with-parent") as engine:
        eventually(lambda: any("loading" in line for line in engine.log))
        assert engine.process.stdin is not None
        engine.process.stdin.close()
        assert engine.ended() == 0
