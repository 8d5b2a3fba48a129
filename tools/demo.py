"""`make demo`: a real language model behind a root and two sites, on this machine.

It only runs commands that you could type, and shows them: fetch the model, start the tree, draw it, ask a question.
With `--once` it ends after the answer: status 0, or 1 if anything failed.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape as literally

from hierarchy.cli.client import NodeClient, NodeError
from hierarchy.cli.tree import declared_tree
from hierarchy.config.models import TreeConfig, load
from hierarchy.errors import HierarchyError
from hierarchy.runtime.logs import escape
from hierarchy.wire.tree_entry import TreeEntry, decode

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
QUESTION = "What is the capital of France? Answer in one sentence."
START_DEADLINE_S = 300.0  # reading a model from a slow disk takes long
END_DEADLINE_S = 60.0  # longer than `hierarchy up` waits for its nodes
POLL_S = 0.2  # between two requests for the state of the tree
LOG_LINES = 20  # of the log, shown after a failure

Process = subprocess.Popen[bytes]
console = Console(highlight=False)


class DemoError(HierarchyError):
    """The demo failed. `str(error)` is one line with the reason."""


def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the answer.")] = False,
    config: Annotated[Path, typer.Option(metavar="CONFIG", help="YAML file of the tree to start.")] = Path(
        "configs/demo.yaml"
    ),
    question: Annotated[str, typer.Option(metavar="TEXT", help="Question to the model.")] = QUESTION,
    log: Annotated[Path, typer.Option(metavar="FILE", help="File for the log of the nodes.")] = Path("build/demo.log"),
) -> None:
    """Start a tree with a real model, ask it a question, and keep it up until Ctrl-C."""
    os.chdir(ROOT)
    _bypass_proxies()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        tree, spec = decode(declared_tree(config)), load(config).config
        _check_ports(spec, config)
        for model in sorted(
            {engine.model for engine in spec.engines.values() if engine.kind == "local" and engine.model}
        ):
            _run(BIN / "hierarchy", "engine", "fetch", model)
        with _tree_up(config, log) as process:
            _wait_until_up(process, tree)
            _run(BIN / "hierarchy", "tree", tree.url)
            _run(BIN / "hierarchy", "chat", tree.url, question, "--max-tokens", 64, "--temperature", 0)
            if not once:
                _stay(process, tree.url, tree.models[0].name)
    except HierarchyError as error:
        for line in str(error).split("\n"):
            console.print(f"[red]error:[/] {literally(escape(line))}", soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130 if once else 0) from None


def _bypass_proxies() -> None:
    """Reach the nodes, which are all on this machine, without a proxy from the environment."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "localhost,127.0.0.1,::1"]))


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Handle a signal: leave all blocks, which ends the tree, with the status that a shell expects."""
    raise SystemExit(128 + number)


def _check_ports(tree: TreeConfig, config: Path) -> None:
    """Refuse to start while another demo runs: its root would respond instead of this one's."""
    for name, node in tree.nodes.items():
        for host, port in node.listen:
            for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                try:
                    socket.create_server(address[:2], family=family).close()
                except OSError as error:
                    reason = os.strerror(error.errno) if error.errno else str(error)
                    hint = f"stop what listens there (another demo?) or change the port in {config}"
                    raise DemoError(f"{name} cannot listen on port {port} of {address[0]}: {reason}; {hint}") from None


def _show_command(*arguments: object) -> list[str]:
    """Print a command as a user would type it. Returns its arguments."""
    command = [str(argument) for argument in arguments]
    shown = [Path(command[0]).name if Path(command[0]).is_absolute() else command[0], *command[1:]]
    console.print(f"\n[bold]$ {literally(shlex.join(shown))}[/]", soft_wrap=True)
    return command


def _run(*arguments: object) -> None:
    """Print a command and run it; its output goes directly to the terminal."""
    command = _show_command(*arguments)
    if status := subprocess.run(command, check=False).returncode:
        raise DemoError(f"`{shlex.join(command[:3])} ...` ended with status {status}")


@contextmanager
def _tree_up(config: Path, log: Path) -> Iterator[Process]:
    """Run `hierarchy up` while the block runs; it ends with this process, however that ends."""
    command = _show_command(BIN / "hierarchy", "up", config)
    console.print(f"[dim]its log: {log}[/]")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--exit-with-parent"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only this process, which passes it on
        )
    try:
        yield process
    except DemoError:
        with log.open(errors="replace") as lines:
            for line in deque(lines, LOG_LINES):
                console.print(f"[dim]{literally(escape(line.rstrip()))}[/]", soft_wrap=True)
        raise
    finally:
        _stop(process)


def _stop(process: Process) -> None:
    """End the tree, and wait for it. A second Ctrl-C kills its nodes."""
    if process.poll() is None:
        console.print("\n[dim]ending the tree[/]")
        process.terminate()
    try:
        process.wait(END_DEADLINE_S)
    except KeyboardInterrupt:
        process.terminate()  # a second signal makes it kill its nodes
        process.wait(END_DEADLINE_S)
    finally:
        process.kill()  # then its nodes read the end of their stdin, and end too
        process.communicate()


def _wait_until_up(process: Process, tree: TreeEntry) -> None:
    """Wait until every node and engine is up and lists its declared models. Raises `DemoError`."""
    began = time.monotonic()
    missing = list(_names(tree))
    with console.status("starting") as status, NodeClient(tree.url) as root:
        while missing:
            elapsed_s = time.monotonic() - began
            _check_start(process, missing, elapsed_s)
            for name in _names_up(tree, _live_tree(root)):
                if name in missing:
                    missing.remove(name)
                    console.print(f"[green]●[/] {name} [dim]is up after {elapsed_s:.1f} s[/]")
            status.update(f"waiting for {', '.join(missing)}")
            time.sleep(POLL_S)


def _check_start(process: Process, missing: list[str], elapsed_s: float) -> None:
    """Raise `DemoError` if the tree has ended, or takes too long to start."""
    if process.poll() is not None:
        raise DemoError(f"`hierarchy up` ended with status {process.returncode}; its last lines are above")
    if elapsed_s > START_DEADLINE_S:
        names = ", ".join(missing)
        raise DemoError(f"not up after {START_DEADLINE_S:.0f} s: {names}; the last log lines are above")


def _live_tree(root: NodeClient) -> TreeEntry:
    """The tree that the root shows; an empty one while the root does not listen yet."""
    try:
        return decode(root.get("/tree"))
    except NodeError:
        return decode({})


def _names(tree: TreeEntry) -> Iterator[str]:
    """Names of the node and of everything below it."""
    yield tree.name
    for child in tree.children.values():
        yield from _names(child)


def _names_up(tree: TreeEntry, live: TreeEntry) -> Iterator[str]:
    """Names in the declared `tree` that are up in the `live` one, with all their models."""
    if live.state == "up" and all(live.serves(model.name) for model in tree.models):
        yield tree.name
    for name, child in tree.children.items():
        if name in live.children:
            yield from _names_up(child, live.children[name])


def _stay(process: Process, url: str, model: str) -> None:
    """Show what to try, and wait for Ctrl-C. Raises `DemoError` if the tree ends by itself."""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    folder = BIN.relative_to(ROOT) if BIN.is_relative_to(ROOT) else BIN
    console.print("\n[bold green]It is up.[/] Try in another terminal:")
    for command in (
        f'{folder}/hierarchy chat {url} "Why is the sky blue?"',
        f"{folder}/hierarchy tree {url} --watch",
        f"curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'",
    ):
        console.print(f"  {literally(command)}", soft_wrap=True)
    console.print("[dim]Ctrl-C ends it.[/]")
    raise DemoError(f"`hierarchy up` ended by itself, with status {process.wait()}; its last lines are above")


if __name__ == "__main__":
    typer.run(demo)
