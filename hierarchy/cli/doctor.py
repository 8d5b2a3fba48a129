"""`hierarchy doctor CONFIG --node N`, run on a node's machine: can the node do its work there?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hierarchy.cli import flags
from hierarchy.cli.output import print_json
from hierarchy.runtime.logs import escape

if TYPE_CHECKING:
    from hierarchy.doctor import Finding, Report

#: name of a verdict -> its mark and colour
MARKS = {"OK": ("✓", "green"), "WARN": ("!", "yellow"), "FAIL": ("✗", "red"), "SKIP": ("-", "dim")}


def doctor(
    config: flags.Config,
    node: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Node of this machine.", show_default="the slice's, or the only one"),
    ] = None,
    insecure: flags.Insecure = False,
    cleartext: flags.Cleartext = False,
    join_token_file: flags.JoinTokenFile = None,
    as_json: flags.AsJson = False,
    admin_key_file: flags.AdminKeyFile = None,
) -> None:
    """Examine this machine: its addresses and limits, the path to the parent and back, and the engines.

    Takes the flags of `serve`, and recommends a `link`.

    Status 0 if the node can work here, 1 if a check failed, 2 if the configuration is wrong.
    """
    import asyncio

    from hierarchy.cli.client import authorization, read_key
    from hierarchy.cli.node_flags import NodeFlags
    from hierarchy.doctor import examine
    from hierarchy.topology import node_config
    from hierarchy.topology.declared import read_tree

    tree = read_tree(config)
    given = NodeFlags(join_token_file=join_token_file, insecure=insecure, cleartext=cleartext)
    made = given.over(node_config.from_tree(tree, tree.choose_node(node)))
    admin = authorization(read_key(admin_key_file, flags.ADMIN_KEY))
    report = asyncio.run(examine(tree, made, given.environ(), admin))
    if as_json:
        print_json(_page(report))
    else:
        _show(report)
    if not report.passed:
        raise typer.Exit(1)


def _page(report: Report) -> dict[str, Any]:
    """The report for programs."""
    sections = {title: [_row(finding) for finding in found] for title, found in report.sections.items()}
    return {"node": report.node, "ok": report.passed, "sections": sections, "link": _row(report.link)}


def _row(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "verdict": finding.verdict.value,
        "what": finding.what,
        "hint": finding.hint,
    }


def _show(report: Report) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    console.print(Text.assemble("node ", (escape(report.node), "bold")))
    for title, found in [*report.sections.items(), ("recommendation", [report.link])]:
        table.add_row("", "", "")
        table.add_row("", Text(escape(title.partition(" ")[0]), "bold"), Text(escape(title.partition(" ")[2]), "bold"))
        for finding in found:
            _add(table, finding)
    console.print(table)


def _add(table: Table, finding: Finding) -> None:
    verdict = finding.verdict.name
    mark, style = MARKS[verdict]
    what = Text(escape(finding.what), {"OK": "", "SKIP": "dim"}.get(verdict, style))
    table.add_row(Text(mark, style), Text(escape(finding.check)), what)
    if finding.hint:
        table.add_row("", "", Text(escape(finding.hint), "italic"))
