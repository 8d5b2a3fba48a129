"""`hierarchy check CONFIG`: is the tree valid, does the running one agree with it, and what depends on what?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from hierarchy.cli import flags
from hierarchy.cli.output import count, print_json
from hierarchy.errors import UsageError
from hierarchy.runtime.logs import escape

if TYPE_CHECKING:
    from hierarchy.config.yaml import Problem
    from hierarchy.topology.declared import DeclaredTree
    from hierarchy.topology.graph import TreeGraph
    from hierarchy.wire.tree_entry import TreeEntry

Line = tuple[str, str]  #: where something is wrong, and what


def check(
    config: flags.Config,
    node: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Node of this machine: check its files, secrets and addresses too.",
            show_default="the slice's, the only one, or all if they are on one machine",
        ),
    ] = None,
    live: Annotated[
        str | None, typer.Option(metavar="URL", help="Compare it with the running tree below this node.")
    ] = None,
    risks: Annotated[bool, typer.Option("--risks", help="Show what the loss of each node or link takes away.")] = False,
    insecure: flags.Insecure = False,
    cleartext: flags.Cleartext = False,
    join_token_file: flags.JoinTokenFile = None,
    as_json: flags.AsJson = False,
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Check the configuration of a tree; print every problem with its line and a hint.

    What it accepts, `serve` starts: it makes the same checks, and takes the same flags. Status 0 if the tree is valid
    and the running one agrees with it, 1 if there are problems or differences, 2 if the file or the running tree cannot
    be read.
    """
    from hierarchy.cli.node_checks import examine, nodes_here
    from hierarchy.cli.node_flags import NodeFlags
    from hierarchy.cli.requirement_checks import unmet_requirements
    from hierarchy.cli.risks import show_risks
    from hierarchy.config.models import ConfigError, UnreadableConfigError, read
    from hierarchy.topology.declared import DeclaredTree
    from hierarchy.topology.live import live_graph, present

    if as_json and risks:
        raise UsageError("--json and --risks exclude each other: --risks prints tables for people")
    try:
        tree = DeclaredTree(read(config))
    except UnreadableConfigError:
        raise  # like any usage error: one line and status 2
    except ConfigError as error:
        _end(_lines(error.problems), as_json=as_json)
    given = NodeFlags(join_token_file=join_token_file, insecure=insecure, cleartext=cleartext)
    here = nodes_here(tree, node, asks_for_the_tree=live is not None or risks)
    problems, notes = examine(tree, given, here)
    if problems:
        _end(_lines(problems), as_json=as_json)
    warnings = unmet_requirements(tree)
    if live is not None and node is None:
        notes = []  # the question is about the running tree, and not about this machine
    running = None if live is None else live_graph(_fetch_tree(tree, live, admin_key_file, tls_ca, tls_cert, tls_key))
    differences = [] if running is None else _differences(tree, running, live or "")
    if risks:
        graph = tree.graph if running is None else present(running)
        show_risks(graph, next(member.key for member in graph if not member.parents))
    if differences:
        _end(differences, as_json=as_json)
    if as_json:
        sizes = {"nodes": len(tree.graph.nodes), "engines": len(tree.graph.engines), "depth": tree.graph.depth}
        print_json({**_page([]), **sizes, "notes": _rows(_lines([*tree.notes, *warnings, *notes]))})
    elif not risks:
        typer.echo(_summary(tree.graph, running))
        _show_notes(tree.notes, None)
        _show_notes(warnings, None)
        _show_notes(notes, None if here else config)


def _lines(problems: Iterable[Problem]) -> list[Line]:
    return [(problem.where, problem.what) for problem in problems]


def _end(problems: Sequence[Line], *, as_json: bool) -> NoReturn:
    """Print what is wrong, and end with status 1."""
    if as_json:
        print_json(_page(problems))
    else:
        _print(problems)
    raise typer.Exit(1)


def _page(problems: Sequence[Line]) -> dict[str, Any]:
    return {"ok": not problems, "problems": _rows(problems)}


def _rows(lines: Iterable[Line]) -> list[dict[str, str]]:
    return [{"where": where, "what": what} for where, what in lines]


def _show_notes(notes: Sequence[Problem], config: Path | None) -> None:
    """Print on stderr what `serve` would refuse on this machine. config: if the nodes of this machine are unknown."""
    for note in notes:
        typer.echo(f"note: {escape(note.where)}: {escape(note.what)}", err=True)
    if notes and config is not None:
        hint = f"hierarchy check {config} --node NAME"
        typer.echo(f"note: a node of this machine would not start like that; check it here with: {hint}", err=True)


def _fetch_tree(tree: DeclaredTree, url: str, key_file: Path | None, *tls: str | None) -> TreeEntry:
    """GET /tree. tls: the values of the flags, which override the configuration's."""
    from hierarchy.cli.client import NodeClient, client_tls, read_key, readable_tls
    from hierarchy.wire.tree_entry import decode

    config = tree.config
    settings = config.nodes[config.slice].settings(config.defaults) if config.slice else config.defaults
    spec = client_tls(*tls).over(readable_tls(settings.tls))
    with NodeClient(url, key=read_key(key_file, flags.ADMIN_KEY), tls=spec) as node:
        return decode(node.get("/tree"))


def _differences(tree: DeclaredTree, running: TreeGraph, url: str) -> list[Line]:
    """How the running tree differs from the declared one, and its own problems."""
    from hierarchy.topology.drift import drift
    from hierarchy.topology.live import live_problems

    lines: list[Line] = []
    for difference in drift(tree.graph, running):
        where = url
        if difference.declared is not None:
            line = tree.source.line(tree.graph.members[difference.declared].field)
            where = f"{tree.source.file}:{line}"
        lines.append((where, f"{escape(difference.name)}: {escape(difference.what)}"))
    return lines + [(problem.where, escape(problem.what)) for problem in live_problems(running, url)]


def _summary(graph: TreeGraph, running: TreeGraph | None) -> str:
    from hierarchy.topology.drift import visible

    nodes, engines = count(len(graph.nodes), "node"), count(len(graph.engines), "engine")
    summary = f"OK: {nodes}, {engines}, depth {graph.depth}"
    if running is None:
        return summary
    seen = len(visible(graph, running))
    return f"{summary}; the running tree agrees" + (f" ({seen} of {len(graph)} seen)" if seen < len(graph) else "")


def _print(lines: Iterable[Line]) -> None:
    console = Console(highlight=False, soft_wrap=True)  # a problem is one line, however narrow the terminal
    for where, what in lines:
        console.print(Text.assemble((escape(where), "red"), f": {escape(what)}"))
