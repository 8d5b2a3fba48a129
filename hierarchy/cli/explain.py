"""`hierarchy why MODEL --url ROOT`: where the next request for a model goes, and why not elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hierarchy.cli import flags
from hierarchy.cli.output import print_json
from hierarchy.errors import UsageError
from hierarchy.labels import write
from hierarchy.runtime.logs import escape

if TYPE_CHECKING:
    from hierarchy.introspection.explain import Candidate, Level, Route

UNKNOWN: Final = "-"
_REASONS: Final = {
    "sticky": "it continues a response that one child made",
    "match": "a child that has a part of the prompt costs least",
    "no_match": "no child has a part of the prompt",
    "spread": "more waits at the children that have a part of the prompt than that saves",
}


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3g}"


def _bytes(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def _ms(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{1000 * seconds:.3g} ms"


#: The columns of a node that chooses by prefix, and how each shows a candidate. See `introspection.terms`.
COLUMNS: Final[dict[str, Callable[[Candidate], str]]] = {
    "load": lambda one: _number(one.load),
    "speed": lambda one: _number(one.speed),
    "score": lambda one: _number(one.score),
    "slots": lambda one: f"{one.slots:,}" if one.slots else UNKNOWN,
    "match": lambda one: _bytes(one.match),
    "pending": lambda one: _bytes(one.pending),
    "round trip": lambda one: _ms(one.round_trip_s),
    "tier": lambda one: _number(one.tier),
    "cost": lambda one: _bytes(one.cost),
    "chance": lambda one: f"{one.chance:.0%}",
}
#: those of a node with another policy
_BY_LOAD: Final = {
    **{name: COLUMNS[name] for name in ("load", "speed", "score", "slots")},
    "busy": lambda one: _number(one.busy) if one.slots else UNKNOWN,
    "chance": COLUMNS["chance"],
}

LEAST_NAME: Final = 16  # columns of a name, before it is folded
#: of a node that prefers some children
_TIERS: Final[dict[str, Callable[[Candidate], str]]] = {
    "round trip": COLUMNS["round trip"],
    "tier": COLUMNS["tier"],
    "wait": lambda one: UNKNOWN if one.wait_s is None else f"{one.wait_s:.3g} s",
}


def why(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model or an alias.", show_default=False)],
    url: Annotated[
        str, typer.Option(metavar="URL", envvar=flags.NODE_URL, help="URL of the node that receives the request.")
    ] = flags.LOCAL_NODE,
    api: Annotated[str, typer.Option(metavar="API", help="API of the request: openai or fastchat.")] = "openai",
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of a chat with one message: where it would go.")
    ] = None,
    body: Annotated[
        str, typer.Option(metavar="FILE", help="JSON body of a request: where it would go; - for stdin.")
    ] = "",
    session: Annotated[str, typer.Option(metavar="ID", help="With a prompt: its `x-session-id`.")] = "",
    caller: Annotated[
        str, typer.Option(metavar="NAME", help="With a prompt: the name of its API key, for `share_prefixes: false`.")
    ] = "",
    require: Annotated[
        str | None, typer.Option(metavar="LABELS", help="Labels that the request requires: region=eu,trust=own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the response of /route.")] = False,
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Explain where the next request for a model goes.

    For each level of the tree: the candidates with their loads and scores, the likeliest of them, and why each other
    child gets no request. With a prompt: where this prompt goes, and what each candidate has of it in its cache.

    Status 0 if an engine can take the request, 1 if none can now, 2 if the node cannot be reached or does not know the
    model.
    """
    import msgspec

    from hierarchy.cli.client import open_node
    from hierarchy.introspection.explain import Route

    content = _content(model, prompt, body)
    if content is None and (session or caller):
        raise UsageError("--session and --caller belong to a prompt: give one with --prompt or --body")
    labels = flags.labels("--require", require)
    named = {"session": session, "caller": caller, "require": write(labels) if labels else ""}
    given = {name: text for name, text in named.items() if text}
    with open_node(url, flags.ADMIN_KEY, admin_key_file, tls_ca, tls_cert, tls_key) as node:
        if content is None:
            response = node.get("/route", model=model, api=api, **given)
        else:
            response = node.post_bytes("/route", content, model=model, api=api, **given)
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


def _content(model: str, prompt: str | None, file: str) -> bytes | None:
    """The body of the request that is asked about; None for none. Raises `UsageError`."""
    from hierarchy.cli.client import encoded

    if prompt is not None and file:
        raise UsageError("--prompt and --body exclude each other: use one of them")
    if prompt is not None:
        return encoded({"model": model, "messages": [{"role": "user", "content": prompt}]})
    if not file:
        return None
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"--body {file}: {error.strerror or error}; write - to read it from stdin") from None


def _show(route: Route, console: Console) -> None:
    heading = Text.assemble((escape(route.model), "bold"), f" through the {escape(route.api)} API")
    if route.asked != route.model:
        heading.append(f"; {escape(route.asked)} is an alias of it")
    if route.require:
        heading.append(f"; required: {escape(route.require)}")
    console.print(heading)
    if route.prompt is not None:
        console.print(_of_prompt(route))
    for level in route.levels:
        policy = escape(level.dispatch) or "least score"
        reason = f": {_REASONS.get(level.reason, escape(level.reason))}" if level.reason else ""
        console.print(Text.assemble("\n", (escape(level.node), "bold"), f" chooses by {policy}{reason}"))
        console.print(_table(level))
    console.print()
    console.print(_conclusion(route))


def _of_prompt(route: Route) -> str:
    """What the request's prompt is to this node."""
    text = f"prompt of {route.prompt:,} bytes"
    if not route.digests:
        text += ", too short to be looked for: it goes by load"
    return text


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
    columns = _columns(level)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    names = [*(one.name for one in level.candidates), *(one.name for one in level.passed_over)]
    table.add_column(
        "child", header_style="dim", overflow="fold", min_width=min(max(map(len, names), default=0), LEAST_NAME)
    )
    for heading in columns:
        table.add_column(heading, justify="right", header_style="dim", no_wrap=True)
    table.add_column("", overflow="fold")
    for candidate in sorted(level.candidates, key=lambda candidate: -candidate.chance):
        chosen = candidate.name == level.next
        cells = [escape(candidate.name), *(shown(candidate) for shown in columns.values()), _kind(candidate)]
        style = "green" if chosen else ""
        table.add_row(Text("→" if chosen else " ", style), *(Text(cell, style) for cell in cells))
    for other in level.passed_over:
        blank = [""] * len(columns)
        table.add_row(Text("·", "dim"), Text(escape(other.name), "dim"), *blank, Text(escape(other.reason), "yellow"))
    return table


def _columns(level: Level) -> dict[str, Callable[[Candidate], str]]:
    """The columns of a node with this policy, and those of its tiers if it prefers some children."""
    columns = COLUMNS if level.dispatch == "prefix" else _BY_LOAD
    if not any(candidate.tier for candidate in level.candidates):
        return columns
    last = {name: columns[name] for name in ("cost", "chance") if name in columns}
    return {**{name: shown for name, shown in columns.items() if name not in last}, **_TIERS, **last}


def _kind(candidate: Candidate) -> str:
    """What the last column shows of a candidate: an engine's kind or a node's reverse link; how often it fails."""
    kind = escape(candidate.kind)
    if candidate.kind == "node":
        kind = "behind a reverse link" if candidate.link == "reverse" else ""
    fails = f"{candidate.error_rate:.0%} of its responses failed" if candidate.error_rate else ""
    counts = f"{candidate.penalty} of its load are for failures" if candidate.penalty else ""
    labels = escape(write(candidate.labels))
    loads = f"not loaded: about {candidate.load_s:g} s" if candidate.load_s else ""
    return ", ".join(filter(None, (kind, loads, labels, fails, counts, _hits(candidate))))


def _hits(candidate: Candidate) -> str:
    """What of its prompts came from the cache of late, by its own count and by what was sent there."""
    own, sent = candidate.engine_hit_rate, candidate.hit_rate
    if own is None and sent is None:
        return ""
    expected = "" if sent is None else f"{sent:.0%} expected"
    return f"cache hits {own:.0%}{expected and f' ({expected})'}" if own is not None else f"cache hits {expected}"
