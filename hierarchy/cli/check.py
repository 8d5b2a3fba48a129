"""`hierarchy check CONFIG`: is the tree valid, does the running one agree with it, and what depends on what?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from hierarchy.cli import flags
from hierarchy.cli.output import count
from hierarchy.runtime.logs import escape

if TYPE_CHECKING:
    from hierarchy.topology.declared import DeclaredTree
    from hierarchy.topology.graph import TreeGraph
    from hierarchy.wire.tree_entry import TreeEntry


def check(
    config: flags.Config,
    live: Annotated[
        str | None, typer.Option(metavar="URL", help="Compare it with the running tree below this node.")
    ] = None,
    risks: Annotated[bool, typer.Option("--risks", help="Show what the loss of each node or link takes away.")] = False,
    admin_key_file: flags.AdminKeyFile = None,
) -> None:
    """Check the configuration of a tree; print every problem with its line and a hint.

    Status 0 if the tree is valid and the running one agrees with it, 1 if
    there are problems or differences, 2 if the file or the running tree
    cannot be read.
    """
    from hierarchy.cli.risks import show_risks
    from hierarchy.config.models import ConfigError, UnreadableConfigError, load
    from hierarchy.topology.declared import DeclaredTree
    from hierarchy.topology.live import live_graph, present

    try:
        tree = DeclaredTree(load(config))
        tree.require_valid()
    except UnreadableConfigError:
        raise  # like any usage error: one line and status 2
    except ConfigError as error:
        _print((problem.where, problem.what) for problem in error.problems)
        raise typer.Exit(1) from None
    running = None if live is None else live_graph(_fetch_tree(tree, live, admin_key_file))
    agrees = running is None or _compare(tree, running, live or "")
    if risks:
        graph = tree.graph if running is None else present(running)
        show_risks(graph, next(member.key for member in graph if not member.parents))
    if not agrees:
        raise typer.Exit(1)
    if not risks:
        typer.echo(_summary(tree.graph, running))


def _fetch_tree(tree: DeclaredTree, url: str, key_file: Path | None) -> TreeEntry:
    from hierarchy.cli.client import NodeClient, read_key, readable_tls
    from hierarchy.wire.tree_entry import decode

    config = tree.config
    settings = config.nodes[config.slice].settings(config.defaults) if config.slice else config.defaults
    with NodeClient(url, key=read_key(key_file, flags.ADMIN_KEY), tls=readable_tls(settings.tls)) as node:
        return decode(node.get("/tree"))


def _compare(tree: DeclaredTree, running: TreeGraph, url: str) -> bool:
    """Print how the running tree differs from the declared one, and its own problems. Returns whether it has none."""
    from hierarchy.topology.drift import drift
    from hierarchy.topology.live import live_problems

    lines: list[tuple[str, str]] = []
    for difference in drift(tree.graph, running):
        where = url
        if difference.declared is not None:
            line = tree.source.line(tree.graph.members[difference.declared].field)
            where = f"{tree.source.file}:{line}"
        lines.append((where, f"{escape(difference.name)}: {escape(difference.what)}"))
    lines += [(problem.where, escape(problem.what)) for problem in live_problems(running, url)]
    _print(lines)
    return not lines


def _summary(graph: TreeGraph, running: TreeGraph | None) -> str:
    from hierarchy.topology.drift import visible

    nodes, engines = count(len(graph.nodes), "node"), count(len(graph.engines), "engine")
    summary = f"OK: {nodes}, {engines}, depth {graph.depth}"
    if running is None:
        return summary
    seen = len(visible(graph, running))
    return f"{summary}; the running tree agrees" + (f" ({seen} of {len(graph)} seen)" if seen < len(graph) else "")


def _print(lines: Iterable[tuple[str, str]]) -> None:
    console = Console(highlight=False, soft_wrap=True)  # a problem is one line, however narrow the terminal
    for where, what in lines:
        console.print(Text.assemble((where, "red"), f": {what}"))
