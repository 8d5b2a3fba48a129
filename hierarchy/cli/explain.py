"""`hierarchy why MODEL --url ROOT`: who would get the next request for a model, and why nobody else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hierarchy.cli import flags
from hierarchy.cli.client import ADMIN_KEY, NodeClient, client_tls, read_key
from hierarchy.runtime.logs import escape


def why(
    model: Annotated[str, typer.Argument(help="name of a model, or of an alias", show_default=False)],
    url: Annotated[str, typer.Option(help="of the node that would be asked")] = "http://localhost:21001",
    api: Annotated[str, typer.Option(help="openai or fastchat")] = "openai",
    as_json: Annotated[bool, typer.Option("--json", help="print what GET /route answered")] = False,
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: Annotated[
        str | None,
        typer.Option("--tls-ca", "--ca", help="PEM file of the CAs of an https node  [default: the system's]"),
    ] = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Tell which way the next request would go: at each level the candidates with their loads and scores, why each
    other child is passed over, and who is chosen.

    Status 0 if an engine would get it, 1 if none would, 2 if the node cannot be asked or nobody serves the model.
    """
    tls = client_tls(tls_ca, tls_cert, tls_key)
    with NodeClient(url, key=read_key(admin_key_file, ADMIN_KEY), tls=tls) as node:
        answer = node.get("/route", model=model, api=api)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        _show(answer, Console(highlight=False))
    if not answer.get("path"):
        raise typer.Exit(1)


def _show(answer: Mapping[str, Any], console: Console) -> None:
    asked, model = _text(answer, "asked"), _text(answer, "model")
    head = Text.assemble((model, "bold"), f" through the {_text(answer, 'api')} API")
    console.print(head.append(f", which {asked} stands for now") if asked != model else head)
    for level in _list(answer, "levels"):
        how = _text(level, "dispatch") or "least score"
        console.print(Text.assemble("\n", (_text(level, "node"), "bold"), f" chooses by {how}"))
        console.print(_level(level))
    way = _text(answer, "path")
    console.print()
    if way:
        console.print(Text.assemble("the next request goes to ", (way, "bold green")))
        last = _text(levels[-1], "api") if (levels := _list(answer, "levels")) else ""
        if last and last != _text(answer, "api"):
            console.print(f"which serves it through the {last} API: the node above it translates")
    else:
        console.print(Text("the next request goes to nobody", "bold red"))


def _level(level: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("child", header_style="dim", overflow="fold")
    for head in ("load", "speed", "score", "chance"):
        table.add_column(head, justify="right", header_style="dim", no_wrap=True)
    table.add_column("", overflow="fold")
    for item in sorted(_list(level, "candidates"), key=lambda item: -_number(item, "chance")):
        chosen = item.get("name") == level.get("next")
        style = "green" if chosen else ""
        numbers = [f"{_number(item, field):.3g}" for field in ("load", "speed", "score")]
        cells = [_text(item, "name"), *numbers, f"{_number(item, 'chance'):.0%}", _kind(item)]
        table.add_row(Text("→" if chosen else " ", style), *(Text(cell, style) for cell in cells))
    for item in _list(level, "passed_over"):
        reason = Text(_text(item, "reason"), "yellow")
        table.add_row(Text("·", "dim"), Text(_text(item, "name"), "dim"), "", "", "", "", reason)
    return table


def _kind(item: Mapping[str, Any]) -> str:
    if item.get("kind") != "node":
        return _text(item, "kind")
    return "behind a reverse link" if item.get("link") == "reverse" else ""


def _list(thing: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    found = thing.get(field)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _text(thing: Mapping[str, Any], field: str) -> str:
    return escape(str(thing.get(field) or ""))


def _number(thing: Mapping[str, Any], field: str) -> float:
    found = thing.get(field)
    return found if isinstance(found, int | float) else 0.0
