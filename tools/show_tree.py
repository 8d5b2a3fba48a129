"""Draw a tree of controllers: `python tools/show_tree.py CONFIG_OR_URL`, declared or live.

From a YAML file it draws what is declared, without any network. From a node's URL it draws what that node knows (`GET
/tree`, answered from memory), with what cannot be reached shown as such. `--format` gives the same as a picture for
other programs: `dot`, `mermaid` or `svg`.
"""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hierarchy.cli import flags
from hierarchy.cli.client import ADMIN_KEY, NodeClient, NodeError, NodeRefused, client_tls, read_key
from hierarchy.config.blocks import TlsSpec
from hierarchy.config.models import ConfigError, NodeSpec, TreeConfig, load
from hierarchy.errors import HierarchyError, UsageError
from hierarchy.runtime.logs import escape
from hierarchy.topology.declared import DeclaredTree
from hierarchy.topology.drawing import FORMATS

Entry = Mapping[str, Any]  #: one node or engine as `GET /tree` gives it; `children` holds more of them

TIMEOUT_S = 5.0
MAX_DEPTH = 64
STATES = {  # mark and colour
    "up": ("●", "green"),
    "starting": ("◐", "yellow"),
    "draining": ("◒", "yellow"),
    "silent": ("◌", "red"),
    "down": ("✗", "red"),
    "ejected": ("⊘", "red"),
    "gone": ("✗", "red"),
    "declared": ("○", "cyan"),
}
HEADS = ("", "state", "speed", "queue", "in flight", "models")
LINKS = ("reverse", "auto")  # shown behind a node's name, unless its parent simply dials it
LEGEND = "speed: capacity weight · queue: running + waiting · in flight: sent by the node above"
LEGEND_LINK = " · reverse: it dials the node above"
GAP = "  "
MIN_MODELS_WIDTH = 20
URL_FROM_WIDTH = 110  # columns of the terminal, from which there is room for addresses


def fetch(node: NodeClient) -> Entry:
    """The live tree below the node. Raises `NodeError`."""
    return node.get("/tree")


def declared(path: Path) -> Entry:
    """The tree that a YAML file declares, in the shape of `GET /tree`.

    Raises:
        ConfigError: it declares none.
    """
    tree = DeclaredTree(load(path))
    tree.require_valid()
    nodes = tree.config.nodes
    return _declared_node(
        next(name for name in nodes if not nodes[name].parents and not nodes[name].replica_of), tree.config
    )


def _declared_node(name: str, tree: TreeConfig) -> Entry:
    below = [child for child, spec in tree.nodes.items() if name in spec.parents]
    children = {child: _declared_node(child, tree) for child in below}
    for engine, spec in tree.engines.items():
        if name in spec.parents:
            models = [{"name": spec.model, "api": "openai", "speed": spec.speed}] if spec.model else []
            children[engine] = _entry(engine, spec.kind, spec.url or "", spec.speed, models, {})
    models = [model for child in children.values() for model in child["models"]]
    speed = sum(child["speed"] for child in children.values())
    return {
        **_entry(name, "node", _declared_url(tree.nodes[name]), speed, models, children),
        "link": tree.nodes[name].link,
    }


def _declared_url(node: NodeSpec) -> str:
    host, port = node.listen[0]
    return node.advertise or f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _entry(
    name: str, kind: str, url: str, speed: float, models: list[dict[str, Any]], children: dict[str, Entry]
) -> Entry:
    entry = {"name": name, "kind": kind, "url": url, "state": "declared", "detail": "", "speed": speed}
    return entry | {"queue_length": 0, "in_flight": 0, "models": models, "children": children}


def model_names(models: object) -> list[str]:
    """Each model once, with its API families unless it is served by OpenAI's alone."""
    families: dict[str, list[str]] = {}
    for model in models if isinstance(models, list) else []:
        if isinstance(model, dict) and "name" in model:
            families.setdefault(str(model["name"]), []).append(str(model.get("api", "openai")))
    return [name + _families(apis) for name, apis in families.items()]


def _families(apis: list[str]) -> str:
    unique = sorted(set(apis), key=lambda api: (api != "openai", api))
    return "" if unique == ["openai"] else f" ({', '.join(unique)})"


@dataclass(frozen=True)
class Row:
    """One node or engine in words, harmless to a terminal."""

    lead: str  #: tree lines before its name
    below: str  #: tree lines before what follows in its own row
    name: str
    kind: str
    link: str  #: of `LINKS`; empty for a direct one
    state: str
    numbers: tuple[str, ...]  #: speed, queue length, in flight
    models: str
    detail: str
    url: str

    @property
    def label(self) -> Text:
        """Its place and name; of an engine the kind, of a node how it is linked."""
        label = Text(self.lead, "dim").append(self.name, "not dim" if self.kind != "node" else "not dim bold")
        words = self.link if self.kind == "node" else self.kind
        return label.append(f" {words}", "cyan") if words else label

    @property
    def mark(self) -> Text:
        """Its state, in colour."""
        mark, colour = STATES.get(self.state, ("?", "magenta"))
        return Text(f"{mark} {self.state}", colour)


def rows(entry: Entry, lead: str = "", below: str = "", key: str = "?", depth: int = 0) -> Iterator[Row]:
    """The tree from top to bottom. A field that is missing, or not what it should be, is drawn as `-`."""
    words = {name: escape(str(entry.get(name) or "")) for name in ("name", "kind", "state", "detail", "url")}
    counts = () if words["state"] == "declared" else (entry.get("queue_length"), entry.get("in_flight"))
    found = entry.get("children")
    items = found.items() if isinstance(found, dict) and depth < MAX_DEPTH else ()
    children = [(name, child) for name, child in items if isinstance(child, dict)]
    yield Row(
        lead=lead,
        below=below + ("│  " if children else "   "),
        name=words["name"] or escape(key),
        kind=words["kind"] or "node",
        link=str(entry["link"]) if entry.get("link") in LINKS else "",
        state=words["state"] or "?",
        numbers=tuple(_number(number) for number in (entry.get("speed"), *counts)),
        models=", ".join(map(escape, model_names(entry.get("models")))),
        detail=words["detail"],
        url=words["url"],
    )
    for i, (name, child) in enumerate(children, 1):
        last = i == len(children)
        yield from rows(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), name, depth + 1)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"


def draw(tree: Entry, width: int) -> Text:
    """The whole picture for a terminal of `width` columns, legend included."""
    drawn = list(rows(tree))
    with_url = width >= URL_FROM_WIDTH
    live = any(row.state != "declared" for row in drawn)
    heads: tuple[str, ...] = HEADS[:-1] if live else HEADS[:3]
    heads += ("url",) if with_url else ()
    cells = [
        [row.label, row.mark, *map(_amount, row.numbers), *([Text(row.url, "dim")] if with_url else [])]
        for row in drawn
    ]
    widths = [
        max([cell_len(head), *(line[i].cell_len for line in cells if i < len(line))]) for i, head in enumerate(heads)
    ]
    room = width - sum(widths) - len(GAP) * len(widths)
    if room < MIN_MODELS_WIDTH:  # a deep tree of long names: crop the names
        widths[0] = max(10, widths[0] + room - MIN_MODELS_WIDTH)
        room = MIN_MODELS_WIDTH
    lines = [_line([Text(head, "dim") for head in (*heads, HEADS[-1])], widths)]
    for row, line in zip(drawn, cells, strict=True):
        lines += _row_lines(row, line, widths, room)
    legend = LEGEND + (LEGEND_LINK if any(row.link == "reverse" for row in drawn) else "")
    return Text("\n").join([*lines, Text(), _summary(drawn), *([Text(legend, "dim")] if live else [])])


def _row_lines(row: Row, cells: list[Text], widths: list[int], room: int) -> Iterator[Text]:
    colour = STATES.get(row.state, ("", "magenta"))[1]
    last = [Text(part, "" if row.kind != "node" else "dim") for part in _wrap(row.models, room)]
    last += [Text(part, colour) for part in _wrap(row.detail, room)]
    yield _line([*cells, *[Text()] * (len(widths) - len(cells)), *(last[:1] or [Text("-", "dim")])], widths)
    for part in last[1:]:
        yield _line([Text(row.below, "dim"), *[Text()] * (len(widths) - 1), part], widths)


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width`; model names and URLs break behind a slash or a hyphen."""
    wrapper = textwrap.TextWrapper(width)
    wrapper.wordsep_re = re.compile(r"(\s+)|(?<=[/-])")
    return wrapper.wrap(text)


def _line(cells: list[Text], widths: list[int]) -> Text:
    """One line; the numbers (columns 2 to 4) stand to the right, the last cell has no width of its own."""
    padded = []
    for i, (cell, width) in enumerate(zip(cells, widths, strict=False)):
        cell.truncate(width, overflow="ellipsis")
        pad = Text(" " * (width - cell.cell_len))
        padded.append(pad + cell if 2 <= i <= 4 else cell + pad)
    line = Text(GAP).join([*padded, *cells[len(widths) :]])
    line.rstrip()
    return line


def _amount(number: str) -> Text:
    return Text(number, "dim" if number in ("0", "-") else "")


def _summary(drawn: list[Row]) -> Text:
    nodes = sum(row.kind == "node" for row in drawn)
    engines = len(drawn) - nodes
    text = Text(f"{nodes} node{'s'[: nodes != 1]} · {engines} engine{'s'[: engines != 1]}")
    if missing := sum(row.state not in ("up", "declared") for row in drawn):
        return text.append(" · ").append(f"{missing} not up", "red")
    return text.append(" · ").append("all up", "green") if any(row.state == "up" for row in drawn) else text


def watch(read: Callable[[], Entry], console: Console, interval_s: float) -> None:
    """Draw again every `interval_s` until Ctrl-C. What was last known of a node that stops answering stays drawn."""
    tree, seen = read(), time.strftime("%X")
    status = Text()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(Group(draw(tree, console.width), status), refresh=True)
            time.sleep(interval_s)
            try:
                tree, seen = read(), time.strftime("%X")
                status = Text(f"{seen}, again every {interval_s:g} s, Ctrl-C ends it", "dim")
            except (NodeError, ConfigError) as error:
                status = Text(f"as of {seen}: {escape(str(error))}", "red")


def show_tree(
    target: Annotated[str, typer.Argument(metavar="CONFIG|URL", help="YAML file, or URL of a node")],
    as_format: Annotated[str, typer.Option("--format", help="text, dot, mermaid or svg")] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON in the shape of GET /tree")] = False,
    keep_watching: Annotated[bool, typer.Option("--watch", help="draw again and again until Ctrl-C")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="seconds between two drawings")] = 1.0,
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Draw a tree of controllers, as a file declares it or as a node sees it now."""
    console = Console(highlight=False)
    try:
        if as_json and keep_watching:
            raise UsageError("--json and --watch exclude each other: take one")
        if as_format != "text" and (as_json or keep_watching):
            raise UsageError("--format is for one picture: leave out --json and --watch")
        if as_format not in ("text", *FORMATS):
            raise UsageError(f"--format {as_format}: choose text, {', '.join(FORMATS)}")
        key, tls = read_key(admin_key_file, ADMIN_KEY), client_tls(tls_ca, tls_cert, tls_key)
        with ExitStack() as stack:
            read = reader(stack, target, key, tls)
            if keep_watching:
                watch(read, console, interval)
            elif as_json:
                typer.echo(json.dumps(read(), indent=2))
            elif as_format in FORMATS:
                typer.echo(FORMATS[as_format](read()), nl=False)
            else:
                console.print(draw(read(), console.width), soft_wrap=True)
    except HierarchyError as error:
        typer.echo("\n".join(f"error: {escape(line)}" for line in str(error).split("\n")), err=True)
        status = 2 if isinstance(error, UsageError) and not isinstance(error, NodeRefused) else 1
        raise typer.Exit(status) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def reader(stack: ExitStack, target: str, key: str, tls: TlsSpec) -> Callable[[], Entry]:
    """How to read `target`: a file if there is one or if its name ends like one, else the node at that URL."""
    path = Path(target)
    if "://" not in target and (path.suffix in (".yaml", ".yml") or path.exists()):
        return partial(declared, path)
    return partial(fetch, stack.enter_context(NodeClient(target, key=key, tls=tls)))


if __name__ == "__main__":
    typer.run(show_tree)
