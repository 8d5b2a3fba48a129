"""`hierarchy check CONFIG`: does this tree make sense?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from hierarchy.config import ConfigError, UnreadableConfigError, load
from hierarchy.source import Problem
from hierarchy.topology import build, depth, validate


def check(config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a tree.")]) -> None:
    """Check the configuration of a tree; print every problem with its line and how to mend it.

    Status 0 if the tree is good, 1 if it has problems, 2 if the file cannot be read.
    """
    try:
        loaded = load(config)
        problems = validate(loaded)
    except UnreadableConfigError:
        raise  # like any usage error: one line and status 2
    except ConfigError as error:
        problems = error.problems
    if problems:
        _print(problems)
        raise typer.Exit(1)
    tree = loaded.config
    nodes, engines = _count(len(tree.nodes), "node"), _count(len(tree.engines), "engine")
    typer.echo(f"OK: {nodes}, {engines}, depth {depth(build(tree))}")


def _print(problems: list[Problem]) -> None:
    console = Console(highlight=False, soft_wrap=True)  # a problem is one line, however narrow the terminal
    for problem in problems:
        console.print(Text.assemble((problem.where, "red"), f": {problem.what}"))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
