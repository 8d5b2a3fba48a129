"""`hierarchy tree [CONFIG|URL]`: draw a tree of controllers, declared or live."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hierarchy.cli import flags
from hierarchy.cli.interrupts import raise_keyboard_interrupt
from hierarchy.cli.output import print_json
from hierarchy.config.address import url_of
from hierarchy.errors import UsageError
from hierarchy.runtime.logs import escape

if TYPE_CHECKING:
    from hierarchy.config.models import NodeSpec, TreeConfig

Entry = dict[str, Any]  #: one node or engine in the JSON of `GET /tree`
Read = Callable[[], Entry]


def tree(
    target: Annotated[
        str, typer.Argument(metavar="CONFIG|URL", envvar=flags.NODE_URL, help="YAML file of a tree, or URL of a node.")
    ] = flags.LOCAL_NODE,
    picture: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="Format: text, dot, mermaid or svg.")
    ] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in the shape of GET /tree.")] = False,
    keep_watching: Annotated[bool, typer.Option("--watch", help="Draw again and again until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Seconds between two drawings.")] = 1.0,
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Draw a tree of controllers.

    From a YAML file: the tree that it declares, without any network. From a node's URL: the tree below that node as it
    is now; nodes and engines that are not up are marked.

    Status 0, or 2 if the file or the node cannot be read.
    """
    from hierarchy.topology.drawing import FORMATS
    from hierarchy.topology.drawing.text import draw
    from hierarchy.wire.tree_entry import decode

    _check_options(picture, FORMATS, as_json=as_json, keep_watching=keep_watching)
    console = Console(highlight=False)
    with _reader(target, admin_key_file, tls_ca, tls_cert, tls_key) as read:
        if keep_watching:
            with raise_keyboard_interrupt(), suppress(KeyboardInterrupt):
                _watch(read, console, interval)
        elif as_json:
            print_json(read())
        elif picture in FORMATS:
            typer.echo(FORMATS[picture](decode(read())), nl=False)
        else:
            console.print(draw(decode(read()), console.width), soft_wrap=True)


def _check_options(picture: str, formats: Collection[str], *, as_json: bool, keep_watching: bool) -> None:
    if as_json and keep_watching:
        raise UsageError("--json and --watch exclude each other: use one of them")
    if picture != "text" and (as_json or keep_watching):
        raise UsageError("--format draws one picture; leave out --json and --watch")
    if picture not in ("text", *formats):
        raise UsageError(f"--format {picture}: choose text, {', '.join(formats)}")


@contextmanager
def _reader(target: str, admin_key_file: Path | None, *tls: str | None) -> Iterator[Read]:
    """A function that reads `target`: a file if it exists or is named like one, else the node at that URL."""
    path = Path(target)
    if "://" not in target and (path.suffix in (".yaml", ".yml") or path.exists()):
        yield partial(declared_tree, path)
        return
    from hierarchy.cli.client import open_node

    with open_node(target, flags.ADMIN_KEY, admin_key_file, *tls) as node:
        yield partial(node.get, "/tree")


def _watch(read: Read, console: Console, interval_s: float) -> None:
    """Draw again every `interval_s`, for ever. While the tree cannot be read, the last picture stays."""
    from hierarchy.topology.drawing.text import draw
    from hierarchy.wire.tree_entry import decode

    entry, read_at = read(), time.strftime("%X")
    status = Text()
    show = _redraw if console.is_terminal else _append
    with show(console) as update:
        while True:
            update(Group(draw(decode(entry), console.width), status))
            time.sleep(interval_s)
            try:
                entry, read_at = read(), time.strftime("%X")
                status = Text(f"{read_at}, again every {interval_s:g} s, Ctrl-C ends it", "dim")
            except UsageError as error:
                status = Text(f"as of {read_at}: {escape(str(error))}", "red")


@contextmanager
def _redraw(console: Console) -> Iterator[Callable[[Group], None]]:
    """On a terminal: each picture replaces the one before."""
    with Live(console=console, auto_refresh=False) as live:
        yield partial(live.update, refresh=True)


@contextmanager
def _append(console: Console) -> Iterator[Callable[[Group], None]]:
    """Into a file or a pipe: each picture follows the one before."""
    yield partial(console.print, end="\n", soft_wrap=True)


def declared_tree(path: Path) -> Entry:
    """The tree that a YAML file declares, in the shape of `GET /tree`, each state `declared`.

    Raises:
        UsageError: the file cannot be read, or has problems.
    """
    from hierarchy.config.models import load
    from hierarchy.topology.declared import DeclaredTree

    declared = DeclaredTree(load(path))
    declared.require_valid()
    nodes = declared.config.nodes
    root = next(name for name in nodes if not nodes[name].parents and not nodes[name].replica_of)
    return _declared_node(root, declared.config)


def _declared_node(name: str, config: TreeConfig) -> Entry:
    children = {child: _declared_node(child, config) for child, spec in config.nodes.items() if name in spec.parents}
    for engine, spec in config.engines.items():
        if name in spec.parents:
            models = [{"name": spec.model, "api": "openai", "speed": spec.speed}] if spec.model else []
            entry = _declared_entry(engine, spec.kind, spec.url or "", spec.speed, models, {})
            children[engine] = {**entry, "labels": spec.labels}
    models = [model for child in children.values() for model in child["models"]]
    speed = sum(child["speed"] for child in children.values())
    entry = _declared_entry(name, "node", _declared_url(config.nodes[name]), speed, models, children)
    return {**entry, "link": config.nodes[name].link, "labels": config.nodes[name].labels}


def _declared_url(node: NodeSpec) -> str:
    return node.advertise or url_of(node.listen[0])


def _declared_entry(
    name: str, kind: str, url: str, speed: float, models: list[dict[str, Any]], children: dict[str, Entry]
) -> Entry:
    return {
        "name": name,
        "kind": kind,
        "url": url,
        "state": "declared",
        "detail": "",
        "speed": speed,
        "queue_length": 0,
        "in_flight": 0,
        "models": models,
        "children": children,
    }
