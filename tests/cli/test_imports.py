"""Commands import lazily: their help and their bad command lines, and each command only what itself works with.

Modules are counted, since a time depends on the machine: each of the packages named here takes 25 to 150 ms of CPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.test_program import COMMANDS, GROUPS, name_of
from tests.support import DEADLINE_S, eventually
from tests.trees import CONFIGS

ROOT = Path(__file__).parents[2]
#: packages that take long to import, and that no help needs. typer itself imports pydantic to parse a command line.
HEAVY = {
    "asyncio", "cryptography", "fastapi", "httpcore", "httptools", "httpx", "jwt", "msgspec", "networkx",
    "prometheus_client", "ruamel", "starlette", "tenacity", "uvicorn", "uvloop", "xllamacpp",
}  # fmt: skip
MAX_OWN_MODULES = 45  # of this package, for a help: the commands' own, and what their signatures need
TREE = str(CONFIGS / "two-tiers.yaml")
START_S = 60.0  # of three processes, one after the other, on a busy machine
NO_NODE = "http://127.0.0.1:1"


def imported(*arguments: str, **environ: str) -> set[str]:
    """The modules that the program imports for `hierarchy ARGUMENTS`."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hierarchy", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode in (0, 1, 2), ended.stderr
    assert "Traceback" not in ended.stderr
    return set(re.findall(r"^import time: .*\| +(\S+)$", ended.stderr, re.M))


def heavy(modules: set[str]) -> set[str]:
    return HEAVY & {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize(
    "command", [(), *((group,) for group in GROUPS), *COMMANDS], ids=lambda command: name_of(command) or "hierarchy"
)
def test_no_help_imports_what_the_command_works_with(command: tuple[str, ...]) -> None:
    modules = imported(*command, "--help")
    assert heavy(modules) == set()
    own = {name for name in modules if name.partition(".")[0] == "hierarchy"}
    assert len(own) <= MAX_OWN_MODULES, sorted(own)


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        pytest.param(("--version",), "", id="version"),
        pytest.param(("--no-such-flag",), "", id="a bad command line"),
        pytest.param(("check", TREE), "ruamel msgspec networkx jwt cryptography", id="check"),
        pytest.param(("slice", TREE, "--node", "root"), "ruamel msgspec networkx", id="slice"),
        pytest.param(("schema",), "ruamel", id="schema"),
        pytest.param(("tree", TREE), "ruamel msgspec networkx", id="tree of a file"),
        pytest.param(("tree", NO_NODE), "httpx httpcore msgspec", id="tree of a node"),
        pytest.param(("why", "m", "--url", NO_NODE), "httpx httpcore msgspec", id="why"),
        pytest.param(("chat", NO_NODE, "hello"), "httpx httpcore msgspec", id="chat"),
        pytest.param(("drain", "a", "--url", NO_NODE), "httpx httpcore msgspec", id="drain"),
        pytest.param(("token", "key"), "jwt cryptography msgspec", id="token key"),
        pytest.param(("key", "list", "--file", "/no/keys"), "ruamel msgspec", id="key list"),
        pytest.param(("engine", "fetch", "no-such-model"), "", id="engine fetch"),
    ],
)
def test_a_command_imports_what_itself_works_with(arguments: tuple[str, ...], allowed: str) -> None:
    assert heavy(imported(*arguments)) <= set(allowed.split())


class Serving:
    """A node in a process that logs its imports, too."""

    def __init__(self, folder: Path, name: str, *flags: str) -> None:
        self.log = folder / f"{name}.log"
        command = [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "hierarchy",
            "serve",
            "--node",
            name,
            "--port",
            "0",
            *flags,
        ]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--exit-with-parent"], env=environ, stdin=subprocess.PIPE, stderr=log
            )

    def url(self) -> str:
        found = eventually(lambda: re.search(r"listens on (\S+):(\d+)", self.log.read_text()), "the log", START_S)
        assert found is not None
        return f"http://localhost:{found[2]}"

    def imported_late(self) -> list[str]:
        """What has been imported since it listens."""
        served = self.log.read_text().partition(" listens on ")[2]
        return re.findall(r"^import time: .*\| +(\S+)$", served, re.M)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=DEADLINE_S)


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"json": CHAT}),
    ("/v1/chat/completions", {"json": {**CHAT, "stream": True}}),
    ("/v1/chat/completions", {"content": b"{"}),
    ("/v1/chat/completions", {"json": {**CHAT, "model": "unknown"}}),
    ("/v1/audio/transcriptions", {"files": {"file": b"x"}, "data": {"model": "m"}}),
    ("/worker_generate_stream", {"json": {"model": "m", "prompt": "hello", "max_new_tokens": 2}}),
    ("/register_worker", {"json": {"worker_name": 1}}),
    (
        "/register_worker",
        {"json": {
            "worker_name": "http://127.0.0.1:1", "check_heart_beat": True,
            "worker_status": {"model_names": ["w"], "speed": 1, "queue_length": 0},
        }},
    ),
    ("/v1/completions", {"json": {"model": "w", "prompt": "hello"}}),  # of the worker, which is not there
    ("/admin/drain", {"json": {"path": "site", "force": True}}),
    ("/admin/undrain", {"json": {"path": "site"}}),
]  # fmt: skip


def test_a_node_has_imported_everything_before_it_serves(tmp_path: Path) -> None:
    """While one request waits for an import, all others of the node wait."""
    root = Serving(tmp_path, "root")
    site = Serving(tmp_path, "site", "--parent", root.url(), "--link", "reverse", "--engine", "simulated=m")
    try:
        url = root.url()
        eventually(lambda: httpx.get(f"{url}/v1/models").json()["data"], "the model", START_S)
        for path, request in REQUESTS:
            with suppress(httpx.TimeoutException):  # of the one for an unknown model, which is held for a while
                httpx.post(url + path, **request, timeout=3)
        for path in ("/tree", "/metrics", "/route?model=m", "/health", "/ready", "/no-such-path"):
            httpx.get(url + path)
        late = {"root": root.imported_late(), "site": site.imported_late()}
    finally:
        site.end()
        root.end()
    assert late == {"root": [], "site": []}
