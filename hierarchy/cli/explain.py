"""`hierarchy why MODEL --url ROOT`: where the next request for a model goes, and why not elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hierarchy.cli import flags
from hierarchy.cli.output import print_json
from hierarchy.errors import UsageError
from hierarchy.runtime.logs import escape

if TYPE_CHECKING:
    from hierarchy.introspection.explain import Candidate, Level, Route


def why(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model or an alias.", show_default=False)],
    url: Annotated[
        str, typer.Option(metavar="URL", envvar=flags.NODE_URL, help="URL of the node that receives the request.")
    ] = flags.LOCAL_NODE,
    api: Annotated[str, typer.Option(metavar="API", help="API of the request: openai or fastchat.")] = "openai",
    as_json: Annotated[bool, typer.Option("--json", help="Print the response of GET /route.")] = False,
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Explain where the next request for a model goes.

    For each level of the tree: the candidates with their loads and scores, the likeliest of them, and why each other
    child gets no request.

    Status 0 if an engine can take the request, 1 if none can now, 2 if the node cannot be reached or does not know the
    model.
    """
    import msgspec

    from hierarchy.cli.client import open_node
    from hierarchy.introspection.explain import Route

    with open_node(url, flags.ADMIN_KEY, admin_key_file, tls_ca, tls_cert, tls_key) as node:
        response = node.get("/route", model=model, api=api)
    try:
        route = msgspec.convert(response, Route)
    except msgspec.ValidationError as error:
        raise UsageError(f"{node.url}/route: the response is not understood: {error}") from None
    if as_json:
        print_json(response)
    else:
        _show(route, Console(highlight=False))
    if not route.path:
        raise typer.Exit(1)


def _show(route: Route, console: Console) -> None:
    heading = Text.assemble((escape(route.model), "bold"), f" through the {escape(route.api)} API")
    if route.asked != route.model:
        heading.append(f"; {escape(route.asked)} is an alias of it")
    console.print(heading)
    for level in route.levels:
        policy = escape(level.dispatch) or "least score"
        console.print(Text.assemble("\n", (escape(level.node), "bold"), f" chooses by {policy}"))
        console.print(_table(level))
    console.print()
    console.print(_conclusion(route))


def _conclusion(route: Route) -> Text:
    if not route.path:
        return Text("no engine can take the request now", "bold red")
    certain = all(candidate.chance in (0, 1) for level in route.levels for candidate in level.candidates)
    goes = "the next request goes to " if certain else "the next request most likely goes to "
    text = Text.assemble(goes, (escape(route.path), "bold green"))
    last = route.levels[-1].api if route.levels else ""
    if last and last != route.api:
        text.append(f"\nit serves the model through the {escape(last)} API, so the node above it translates")
    return text


def _table(level: Level) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("child", header_style="dim", overflow="fold")
    for heading in ("load", "speed", "score", "chance"):
        table.add_column(heading, justify="right", header_style="dim", no_wrap=True)
    table.add_column("", overflow="fold")
    for candidate in sorted(level.candidates, key=lambda candidate: -candidate.chance):
        chosen = candidate.name == level.next
        numbers = [f"{number:.3g}" for number in (candidate.load, candidate.speed, candidate.score)]
        cells = [escape(candidate.name), *numbers, f"{candidate.chance:.0%}", _kind(candidate)]
        style = "green" if chosen else ""
        table.add_row(Text("→" if chosen else " ", style), *(Text(cell, style) for cell in cells))
    for other in level.passed_over:
        table.add_row(
            Text("·", "dim"), Text(escape(other.name), "dim"), "", "", "", "", Text(escape(other.reason), "yellow")
        )
    return table


def _kind(candidate: Candidate) -> str:
    """What the last column shows of a candidate: an engine's kind or a node's reverse link; how often it fails."""
    kind = escape(candidate.kind)
    if candidate.kind == "node":
        kind = "behind a reverse link" if candidate.link == "reverse" else ""
    fails = f"{candidate.error_rate:.0%} of its responses failed" if candidate.error_rate else ""
    counts = f"{candidate.penalty} of its load are for failures" if candidate.penalty else ""
    pending = f"has {candidate.pending:,} bytes of prompts to read" if candidate.pending else ""
    return ", ".join(filter(None, (kind, fails, counts, pending)))
