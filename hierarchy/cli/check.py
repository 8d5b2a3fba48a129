"""`hierarchy check CONFIG`: does this tree make sense, does the running one agree with it, and what hangs on what?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import networkx as nx
import typer
from rich.console import Console
from rich.text import Text

from hierarchy.cli.admin import AdminKeyFile
from hierarchy.cli.chat import base_url
from hierarchy.cli.client import fetch_json
from hierarchy.cli.risks import show_risks
from hierarchy.config.models import ConfigError, LoadedTree, UnreadableConfigError, load
from hierarchy.runtime.logs import escape
from hierarchy.topology.drift import drift, scope
from hierarchy.topology.graph import build, depth, validate
from hierarchy.topology.live import build_live, present
from hierarchy.topology.live import problems as live_problems


def check(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a tree.")],
    live: Annotated[
        str | None, typer.Option(metavar="URL", help="compare with the running tree below this node")
    ] = None,
    risks: Annotated[bool, typer.Option("--risks", help="tell what the loss of each node or link takes away")] = False,
    admin_key_file: AdminKeyFile = None,
) -> None:
    """Check the configuration of a tree; print every problem with its line and how to mend it.

    Status 0 if the tree is good (and the running one agrees with it), 1 if there are problems or differences, 2 if the
    file or the running tree cannot be read.
    """
    try:
        loaded = load(config)
        problems = validate(loaded)
    except UnreadableConfigError:
        raise  # like any usage error: one line and status 2
    except ConfigError as error:
        problems = error.problems
    if problems:
        _print((problem.where, problem.what) for problem in problems)
        raise typer.Exit(1)
    graph = build(loaded.config)
    running = None if live is None else build_live(_ask_tree(loaded, live, admin_key_file))
    agrees = running is None or _compare(loaded, graph, running, live or "")
    if risks:
        seen = graph if running is None else present(running)
        show_risks(seen, next(name for name, parents in seen.nodes(data="parents") if not parents))
    if not agrees:
        raise typer.Exit(1)
    if not risks:
        typer.echo(_summary(graph, running))


def _ask_tree(loaded: LoadedTree, url: str, key_file: Path | None) -> dict[str, Any]:
    tree = loaded.config
    settings = tree.nodes[tree.slice].settings(tree.defaults) if tree.slice else tree.defaults
    return fetch_json(base_url(url), "/tree", key_file=key_file, tls=settings.tls)


def _compare(loaded: LoadedTree, graph: nx.DiGraph, running: nx.DiGraph, url: str) -> bool:
    """Print how the running tree differs, and what is wrong with it in itself; whether there was nothing to print."""
    lines: list[tuple[str, str]] = []
    for difference in drift(graph, running):
        where = url
        if difference.declared is not None:
            where = f"{loaded.source.file}:{loaded.source.line(graph.nodes[difference.declared]['field'])}"
        lines.append((where, f"{escape(difference.name)}: {escape(difference.what)}"))
    lines += [(problem.where, escape(problem.what)) for problem in live_problems(running, url)]
    _print(lines)
    return not lines


def _summary(graph: nx.DiGraph, running: nx.DiGraph | None) -> str:
    kinds = [kind for _, kind in graph.nodes(data="kind")]
    nodes, engines = _count(kinds.count("node"), "node"), _count(kinds.count("engine"), "engine")
    good = f"OK: {nodes}, {engines}, depth {depth(graph)}"
    if running is None:
        return good
    seen = len(scope(graph, running))
    return f"{good}; the running tree agrees" + (f" ({seen} of {len(graph)} seen)" if seen < len(graph) else "")


def _print(lines: Iterable[tuple[str, str]]) -> None:
    console = Console(highlight=False, soft_wrap=True)  # a problem is one line, however narrow the terminal
    for where, what in lines:
        console.print(Text.assemble((where, "red"), f": {what}"))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
