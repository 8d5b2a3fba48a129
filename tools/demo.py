"""`make demo`: a real language model behind three levels of controllers, on this machine.

It only runs commands that you could type, and shows them: fetch the model, start the tree, draw it, ask it a question.
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
START_DEADLINE_S = 300.0  # a slow disk reads a model for a while
END_DEADLINE_S = 60.0  # above what `hierarchy up` gives its nodes
POLL_S = 0.2
LOG_LINES = 20

Process = subprocess.Popen[bytes]
console = Console(highlight=False)


class DemoError(HierarchyError):
    """The demo failed; one line that says where."""


def demo(
    once: Annotated[bool, typer.Option("--once", help="end after the answer")] = False,
    config: Annotated[Path, typer.Option(help="the tree to start")] = Path("configs/demo.yaml"),
    question: Annotated[str, typer.Option(help="what to ask it")] = QUESTION,
    log: Annotated[Path, typer.Option(help="where the nodes' logs go")] = Path("build/demo.log"),
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
        console.print(f"[red]error:[/] {literally(escape(str(error)))}", soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130 if once else 0) from None


def _bypass_proxies() -> None:
    """Everything here is on this machine; a proxy from the environment would be asked for it, and refuse."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "localhost,127.0.0.1,::1"]))


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _check_ports(tree: TreeConfig, config: Path) -> None:
    """Refuse to start beside another demo: its root would answer in place of ours."""
    for name, node in tree.nodes.items():
        for host, port in node.listen:
            for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                try:
                    socket.create_server(address[:2], family=family).close()
                except OSError as error:
                    why = os.strerror(error.errno) if error.errno else str(error)
                    mend = f"end what listens there (another demo?) or change it in {config}"
                    raise DemoError(f"{name} cannot listen on port {port} of {address[0]}: {why}; {mend}") from None


def _announce(*argv: object) -> list[str]:
    words = [str(word) for word in argv]
    shown = [Path(words[0]).name if Path(words[0]).is_absolute() else words[0], *words[1:]]
    console.print(f"\n[bold]$ {literally(shlex.join(shown))}[/]", soft_wrap=True)
    return words


def _run(*argv: object) -> None:
    """Show a command and run it, its output going straight to the terminal."""
    words = _announce(*argv)
    if status := subprocess.run(words, check=False).returncode:
        raise DemoError(f"`{shlex.join(words[:3])} ...` ended with status {status}")


@contextmanager
def _tree_up(config: Path, log: Path) -> Iterator[Process]:
    """`hierarchy up`, for as long as the block runs; its end is ours, however we end."""
    words = _announce(BIN / "hierarchy", "up", config)
    console.print(f"[dim]its log: {log}[/]")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*words, "--exit-with-parent"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us to hand on
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
    if process.poll() is None:
        console.print("\n[dim]ending the tree[/]")
        process.terminate()
    try:
        process.wait(END_DEADLINE_S)
    except KeyboardInterrupt:
        process.terminate()  # the second one kills at once
        process.wait(END_DEADLINE_S)
    finally:
        process.kill()  # its nodes end when they read the end of their stdin
        process.communicate()


def _wait_until_up(process: Process, tree: TreeEntry) -> None:
    """Until every node and engine is up and lists the models that the file promises."""
    began = time.monotonic()
    seen: set[str] = set()
    everything = set(_names(tree))
    with console.status("starting") as status, NodeClient(tree.url) as node:
        while seen != everything:
            if process.poll() is not None:
                raise DemoError(f"`hierarchy up` ended with status {process.returncode}; its last lines are above")
            elapsed_s = time.monotonic() - began
            if elapsed_s > START_DEADLINE_S:
                missing = ", ".join(sorted(everything - seen))
                raise DemoError(f"not up after {START_DEADLINE_S:.0f} s: {missing}; the last log lines are above")
            try:
                live = decode(node.get("/tree"))
            except NodeError:
                live = decode({})  # the root does not listen yet
            for name in _up(tree, live):
                if name not in seen:
                    seen.add(name)
                    console.print(f"[green]●[/] {name} [dim]is up after {elapsed_s:.1f} s[/]")
            status.update(f"waiting for {', '.join(sorted(everything - seen))}")
            time.sleep(POLL_S)


def _names(tree: TreeEntry) -> Iterator[str]:
    yield tree.name
    for child in tree.children.values():
        yield from _names(child)


def _up(tree: TreeEntry, live: TreeEntry) -> Iterator[str]:
    """Names in the declared `tree` that are up in the `live` one, with all their models."""
    if live.state == "up" and all(live.serves(model.name) for model in tree.models):
        yield tree.name
    for name, child in tree.children.items():
        if name in live.children:
            yield from _up(child, live.children[name])


def _stay(process: Process, url: str, model: str) -> None:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    there = BIN.relative_to(ROOT) if BIN.is_relative_to(ROOT) else BIN
    console.print("\n[bold green]It is up.[/] Try in another terminal:")
    for command in (
        f'{there}/hierarchy chat {url} "Why is the sky blue?"',
        f"{there}/hierarchy tree {url} --watch",
        f"curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'",
    ):
        console.print(f"  {literally(command)}", soft_wrap=True)
    console.print("[dim]Ctrl-C ends it.[/]")
    raise DemoError(f"`hierarchy up` ended by itself, with status {process.wait()}; its last lines are above")


if __name__ == "__main__":
    typer.run(demo)
