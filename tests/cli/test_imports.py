"""Commands import lazily: their help and their bad command lines, and each command only what itself works with.

Modules are counted, since a time depends on the machine: each of the packages named here takes 25 to 150 ms of CPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_program import COMMANDS, GROUPS, name_of
from tests.trees import CONFIGS

ROOT = Path(__file__).parents[2]
#: packages that take long to import, and that no help needs. typer itself imports pydantic to parse a command line.
HEAVY = {
    "asyncio", "cryptography", "fastapi", "httpcore", "httptools", "httpx", "jwt", "msgspec", "networkx",
    "prometheus_client", "ruamel", "starlette", "tenacity", "uvicorn", "uvloop", "xllamacpp",
}  # fmt: skip
MAX_OWN_MODULES = 45  # of this package, for a help: the commands' own, and what their signatures need
TREE = str(CONFIGS / "two-tiers.yaml")
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
        pytest.param(("check", TREE), "ruamel msgspec networkx", id="check"),
        pytest.param(("slice", TREE, "--node", "root"), "ruamel msgspec networkx", id="slice"),
        pytest.param(("schema",), "ruamel", id="schema"),
        pytest.param(("tree", TREE), "ruamel msgspec networkx", id="tree of a file"),
        pytest.param(("tree", NO_NODE), "httpx httpcore msgspec", id="tree of a node"),
        pytest.param(("why", "m", "--url", NO_NODE), "httpx httpcore msgspec", id="why"),
        pytest.param(("chat", NO_NODE, "hello"), "httpx httpcore msgspec", id="chat"),
        pytest.param(("drain", "a", "--url", NO_NODE), "httpx httpcore", id="drain"),
        pytest.param(("token", "key"), "jwt cryptography msgspec", id="token key"),
        pytest.param(("key", "list", "--file", "/no/keys"), "ruamel msgspec", id="key list"),
        pytest.param(("engine", "fetch", "no-such-model"), "", id="engine fetch"),
    ],
)
def test_a_command_imports_what_itself_works_with(arguments: tuple[str, ...], allowed: str) -> None:
    assert heavy(imported(*arguments)) <= set(allowed.split())
