"""The program as a whole: version, help, shell completion, and one line for every error."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from hierarchy import __version__
from hierarchy.cli import flags
from hierarchy.cli.program import app
from hierarchy.relay.downstream import connection
from hierarchy.release import build
from tests.cli.program import fails, program
from tests.trees import CONFIGS

ROOT = CONFIGS.parent
GROUPS = {
    "engine": ("local", "simulated", "fetch"),
    "token": ("key", "create", "revoke"),
    "key": ("create", "list", "revoke"),
    "state": ("backup", "confirm", "restore"),
}
SINGLE = ["chat", "check", "doctor", "drain", "schema", "serve", "simulate", "slice", "tree", "undrain", "up", "why"]
COMMANDS: list[tuple[str, ...]] = [(name,) for name in SINGLE] + [
    (group, name) for group, names in GROUPS.items() for name in names
]


def name_of(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_the_version_shows_whether_the_data_path_is_compiled() -> None:
    ended = program("--version")
    built = "interpreted" if connection.__file__.endswith(".py") else "compiled"
    assert (ended.status, ended.stdout) == (0, f"hierarchy {__version__} (build {build()}, {built})\n")
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_the_help_lists_all_commands() -> None:
    ended = program("--help")
    assert ended.status == 0
    assert set(re.findall(r"^│ (\w+) ", ended.stdout, re.M)) == {*SINGLE, *GROUPS}
    for group, names in GROUPS.items():
        assert set(re.findall(r"^│ (\w+) ", program(group, "--help").stdout, re.M)) == set(names)


@pytest.mark.parametrize("group", [(), *((group,) for group in GROUPS)], ids=name_of)
def test_without_a_command_there_is_the_help_and_status_2(group: tuple[str, ...]) -> None:
    ended = program(*group)
    assert (ended.status, ended.stderr) == (2, "")
    assert ended.stdout.strip() == program(*group, "--help").stdout.strip()


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_every_command_and_flag_has_a_help_text(command: tuple[str, ...]) -> None:
    ended = program(*command, "--help")
    assert ended.status == 0
    assert f"Usage: hierarchy {' '.join(command)} " in ended.stdout
    found = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]  # type: ignore[attr-defined]
    assert found.help
    for param in found.params:
        text = getattr(param, "help", None)
        assert text, param.name
        assert text[0].isupper(), text
        assert text.endswith("."), text


def options(command: tuple[str, ...]) -> dict[str, Any]:
    """The parameters of a command, by each of their flags, or their name."""
    found = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]  # type: ignore[attr-defined]
    return {opt: param for param in found.params for opt in param.opts}


#: commands that run until a signal, or print a file
WITHOUT_JSON = {("serve",), ("up",), ("slice",), ("schema",), ("engine", "local"), ("engine", "simulated")}
WITHOUT_URL = {("check",)}  # it calls a node only if it is told which one


@pytest.mark.parametrize("command", [(), *((group,) for group in GROUPS), *COMMANDS], ids=name_of)
def test_every_command_has_the_short_flag_for_its_help(command: tuple[str, ...]) -> None:
    assert program(*command, "-h") == program(*command, "--help")


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_flags_for_one_purpose_are_the_same_at_every_command(command: tuple[str, ...]) -> None:
    found = options(command)
    assert ("--json" in found) is (command not in WITHOUT_JSON)
    assert ("--ca" in found) is ("--tls-ca" in found)
    if {"--admin-key-file", "--api-key-file"} & set(found) and command != ("doctor",):
        assert {"--tls-ca", "--tls-cert", "--tls-key"} <= set(found)
        urls = [param for param in found.values() if "URL" in str(param.metavar) and param.envvar == flags.NODE_URL]
        assert (len(urls) == 1) is (command not in WITHOUT_URL | {("chat",)}), command  # chat reads it by itself


@pytest.mark.parametrize(
    "arguments",
    [
        ("tree",),
        ("why", "m"),
        ("drain", "a"),
        ("undrain", "a"),
        ("token", "revoke", "--node", "a"),
        ("state", "confirm"),
    ],
    ids=name_of,
)
def test_the_environment_names_the_node(arguments: tuple[str, ...]) -> None:
    assert "cannot reach http://127.0.0.1:1: " in fails(*arguments, status=2, HIERARCHY_URL="http://127.0.0.1:1")
    assert "cannot reach http://127.0.0.1:1: " in fails("chat", "hello", status=2, HIERARCHY_URL="127.0.0.1:1")


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        (("hello",), "http://localhost:1"),
        (("Is 1:2 a ratio?",), "http://localhost:1"),
        (("http://localhost:2", "hello"), "http://localhost:2"),
        (("localhost:2",), "http://localhost:2"),  # the question is on stdin
        (("https://a.invalid",), "https://a.invalid"),
    ],
    ids=name_of,
)
def test_chat_takes_one_argument_for_the_question_where_the_environment_names_the_node(
    arguments: tuple[str, ...], url: str
) -> None:
    message = fails("chat", *arguments, status=2, stdin="hello", HIERARCHY_URL="http://localhost:1")
    assert message.startswith(f"cannot reach {url}: ")


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_an_unknown_flag_is_one_line_with_the_commands_help(command: tuple[str, ...]) -> None:
    message = fails(*command, "--no-such-flag", status=2)
    assert message == f"No such option: --no-such-flag; see: hierarchy {' '.join(command)} --help"


GOOD = str(CONFIGS / "two-tiers.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense",), "No such command 'nonsense'"),
        (("chat",), "Missing argument"),
        (("chat", "ftp://a", "hello"), "'ftp://a' is not an http URL"),
        (("chat", "a", "hello", "--max-tokens", "0"), "'--max-tokens'"),
        (("chat", "a", "hello", "--api-key-file", "/no/key"), "/no/key"),
        (("chat", "https://a", "hello", "--tls-ca", "/no/ca"), "/no/ca"),
        (("chat", "https://a", "hello", "--tls-cert", "/c"), "--tls-cert and --tls-key go together"),
        (("check", "/no/file"), "/no/file: no such file"),
        (("check", "/"), "/: is a directory"),
        (("check", GOOD, "--live", "nowhere:x"), "'nowhere:x' is not a URL"),
        (("doctor", "/no/file"), "/no/file: no such file"),
        (("doctor", GOOD), "choose one with --node"),
        (("doctor", GOOD, "--node", "x"), 'no node "x"'),
        (("drain",), "Missing argument 'PATH'"),
        (("drain", "a", "--admin-key-file", "/no/key"), "/no/key"),
        (("engine", "fetch", "no-such-model"), "no-such-model"),
        (("engine", "local", "--port", "99999"), "'--port'"),
        (("engine", "simulated", "--port", "0", "--slots", "none"), "'--slots'"),
        (("key", "create", "--name", "\n", "--file", "/no/keys"), "--name"),
        (("key", "create", "--name", "a", "--file", "/dev/null/keys"), "/dev/null/keys"),
        (("key", "list", "--file", "/no/keys"), "/no/keys"),
        (("key", "list", "--file", GOOD), "is not a file of keys"),
        (("key", "revoke", "--file", "/no/keys"), "either --name or --id"),
        (("key", "revoke", "--file", "/no/keys", "--id", "a"), "/no/keys"),
        (("serve", "--node", "a b"), "--node"),
        (("serve", "--node", "\n"), "--node"),
        (("serve", "--port", "65536"), "--port"),
        (("serve", "--host", "256.0.0.1", "--insecure"), "256.0.0.1"),
        (("serve", "--parent", "http://127.0.0.1:1", "--join-token-file", "/no/token"), "/no/token"),
        (("serve", "--join-token-file", "-"), "--join-token-file -"),
        (("serve", "--tls-cert", "/no/cert", "--tls-key", "/no/key"), "/no/cert"),
        (("serve", "/no/file"), "/no/file"),
        (("slice", GOOD, "--node", "x"), 'no node "x"'),
        (("slice", "/no/file", "--node", "x"), "/no/file"),
        (("token", "create", "--node", "a", "--key-file", "/no/key"), "/no/key"),
        (("token", "create", "--node", "a", "--key-file", GOOD), GOOD),
        (("token", "key", "--out", "/dev/null/key"), "/dev/null/key"),
        (("token", "revoke", "--node", "a", "--url", "ftp://a"), "'ftp://a' is not an http URL"),
        (("tree", "/no/file.yaml"), "/no/file.yaml"),
        (("tree", "ftp://a"), "'ftp://a' is not an http URL"),
        (("tree", GOOD, "--format", "png"), "--format png"),
        (("undrain", "a", "--url", "http://[::1"), "is not a URL"),
        (("up", "/no/file"), "/no/file"),
        (("why", "m", "--url", "ftp://a"), "'ftp://a' is not an http URL"),
        (("why", "m", "--admin-key-file", "/"), "/"),
    ],
    ids=name_of,
)
def test_bad_input_is_one_line_that_says_what_and_where(arguments: tuple[str, ...], message: str) -> None:
    assert message in fails(*arguments, status=2)


def test_problems_of_a_configuration_are_one_line_each(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(
        "version: 1\nnodes:\n  a: {link: x}\n  b: {parent: a, listen: 'localhost:1', dispatch: y}\n"
        "engines: {e: {parent: b, kind: simulated}}\n"
    )
    ended = program("serve", path, "--node", "a")
    assert ended.status == 2
    first, second = ended.stderr.splitlines()
    assert first.startswith(f"hierarchy: {path}:3: nodes.a.link: ")
    assert second.startswith(f"{path}:4: nodes.b.dispatch: ")


def test_a_message_cannot_send_commands_to_the_terminal(tmp_path: Path) -> None:
    assert "\\x1b[2J" in fails("serve", tmp_path / "\x1b[2J", status=2)


def completions(*words: str) -> list[str]:
    """What bash offers at the end of `words`."""
    environ = {"_HIERARCHY_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    return program(**environ).stdout.split()


def test_the_shell_completes_commands_and_flags() -> None:
    assert completions("hierarchy", "dr") == ["drain"]
    assert completions("hierarchy", "token", "cr") == ["create"]
    assert "--join-token-file" in completions("hierarchy", "serve", "--jo")


@pytest.mark.parametrize("shell", ["bash", *(pytest.param(shell, marks=pytest.mark.slow) for shell in ("zsh", "fish"))])
def test_completion_can_be_shown_and_installed(shell: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from hierarchy.cli import main; main()"]
    environ = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}

    def run(flag: str) -> str:
        done = subprocess.run([*command, flag, shell], capture_output=True, text=True, env=environ, check=True)
        return done.stdout

    assert "_HIERARCHY_COMPLETE=complete_" in run("--show-completion")
    assert "completion installed" in run("--install-completion")
    assert any("_HIERARCHY_COMPLETE" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [("--help",), ("tree", "configs/two-tiers.yaml"), ("schema",), ("--version",)])
def test_output_that_cannot_be_written_is_one_line(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hierarchy", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "hierarchy: cannot write the output: No space left on device\n")


def test_a_pipe_that_nobody_reads_any_more_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m hierarchy schema | true"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.stderr == ""


def test_a_key_that_cannot_be_shown_is_not_stored(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hierarchy", "key", "create", "--name", "x", "--file", str(file)],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    why = "the key cannot be shown (No space left on device); nothing is stored"
    assert (done.returncode, done.stderr) == (2, f"hierarchy: {why}\n")
    assert not file.exists()


def test_a_terminal_that_knows_only_ascii_gets_escapes() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "hierarchy", "tree", "configs/two-tiers.yaml"],
        capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
