"""`hierarchy drain PATH` and `hierarchy undrain PATH`: stop new requests to a node or engine; allow them again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hierarchy.cli import flags
from hierarchy.cli.interrupts import raise_keyboard_interrupt
from hierarchy.cli.output import print_json
from hierarchy.errors import HierarchyError, UsageError
from hierarchy.runtime.logs import escape

if TYPE_CHECKING:
    from hierarchy.cli.client import NodeClient
    from hierarchy.drain.listing import Drained

READ_TIMEOUT_S = 15.0  # longer than a node waits for the next node on the path
SETTLE_S = 3.0  # of a node of an earlier release
INTERRUPTED = 130  # status after Ctrl-C, as a shell has it
PATH_HELP = "Path of a node or engine, such as site-a/gpu-1."
Page = dict[str, Any]

PathArgument = Annotated[str, typer.Argument(metavar="PATH", help=PATH_HELP, show_default=False)]
UrlOption = Annotated[
    str,
    typer.Option("--url", metavar="URL", envvar=flags.NODE_URL, help="URL of the node at which PATH starts."),
]
Reason = Annotated[
    str,
    typer.Option(metavar="TEXT", help="Why, for the log, `hierarchy tree` and `hierarchy why`.", show_default=False),
]


class DrainError(HierarchyError):
    """The node refused; one line with its reason."""


def drain(
    path: Annotated[str, typer.Argument(metavar="[PATH]", help=PATH_HELP, show_default=False)] = "",
    url: UrlOption = flags.LOCAL_NODE,
    reason: Reason = "",
    force: Annotated[
        bool, typer.Option("--force", help="Drain it even if a model then has no available engine.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until nothing is in flight there.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="The longest that --wait waits.")] = 600,
    show: Annotated[bool, typer.Option("--list", help="List what is drained below the node at URL.")] = False,
    as_json: flags.AsJson = False,
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Send no new requests to a node or engine; running ones finish.

    Status 0; 1 if the node refused, or if requests are still in flight at the end of --timeout; 2 if the node cannot be
    reached.
    """
    from hierarchy.cli.client import open_node

    if show is bool(path):
        raise UsageError(
            "--list lists everything: leave PATH out" if path else "Missing argument 'PATH'; or use --list"
        )
    with open_node(
        url, flags.ADMIN_KEY, admin_key_file, tls_ca, tls_cert, tls_key, read_timeout_s=READ_TIMEOUT_S
    ) as node:
        if show:
            _list(node, as_json=as_json)
            return
        page = _post(node, "drain", {"path": path, "reason": reason, "force": force})
        at = "" if url == flags.LOCAL_NODE else f" --url {url}"
        done = f"{path} gets no new requests; to undo: hierarchy undrain {path}{at}"
        _show(page, done, [*_warnings(page)], as_json=as_json)
        if wait:
            _wait(node, path, page, timeout, as_json=as_json)


def undrain(
    path: PathArgument,
    url: UrlOption = flags.LOCAL_NODE,
    reason: Reason = "",
    as_json: flags.AsJson = False,
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Send requests again to a node or engine that was drained."""
    from hierarchy.cli.client import open_node

    with open_node(
        url, flags.ADMIN_KEY, admin_key_file, tls_ca, tls_cert, tls_key, read_timeout_s=READ_TIMEOUT_S
    ) as node:
        page = _post(node, "undrain", {"path": path, "reason": reason})
        _show(page, _undrained(node, path), [*_failures(page)], as_json=as_json)


def _undrained(node: NodeClient, path: str) -> str:
    """What became of it: it may be down as well, or below something that is drained."""
    from hierarchy.cli.client import NodeError

    try:
        page = node.get("/admin/status", path=path, brief="true")
    except NodeError:
        return f"{path} is not drained any more"
    state, detail = page.get("state"), page.get("detail")
    if state == "up":
        return f"{path} gets requests again"
    return escape(f"{path} is not drained any more; it is {state}" + (f": {detail}" if detail else ""))


def _post(node: NodeClient, command: str, message: Page) -> Page:
    from hierarchy.cli.client import NodeRefused

    try:
        return node.post(f"/admin/{command}", message)
    except NodeRefused as error:
        raise DrainError(str(error)) from None


def _show(page: Page, done: str, warnings: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_json(page)
    else:
        typer.echo(done)
    for warning in warnings:
        typer.echo(f"warning: {escape(warning)}", err=True)


def _warnings(page: Page) -> Iterator[str]:
    """What the operator should know of a drain."""
    if lost := page.get("models_lost"):
        yield f"no available engine is left for {', '.join(lost)}"
    if "kept" not in page:
        yield f"{page.get('node')} has an earlier release: it forgets the drain at its restart, and the reason at once"
    elif not page["kept"]:
        yield f"the drain ends when {page.get('node')} restarts: it has no `state_dir`, or cannot write to it"
    yield from _failures(page)


def _failures(page: Page) -> Iterator[str]:
    for name, why in page.get("failed", {}).items():
        yield f"{name} did not respond, and learns it from the other instances when it is back: {why}"


def _wait(node: NodeClient, path: str, page: Page, timeout_s: float, *, as_json: bool) -> None:
    from hierarchy.cli.drain_wait import Waiting

    def say(line: str) -> None:
        typer.echo(escape(line), err=True)

    waiting = Waiting(node, path, settle_s=page.get("settle_s", SETTLE_S), timeout_s=timeout_s, say=say)
    with raise_keyboard_interrupt():
        try:
            typer.echo(waiting.run(), err=as_json)
        except KeyboardInterrupt:
            say(f"{path} stays drained")
            raise typer.Exit(INTERRUPTED) from None


# -- the list ------------------------------------------------------------------------------------------------


def _list(node: NodeClient, *, as_json: bool) -> None:
    from hierarchy.drain.listing import drained
    from hierarchy.wire.tree_entry import decode

    tree = decode(node.get("/tree"))
    rows = drained(tree)
    if as_json:
        import msgspec

        print_json({"drained": msgspec.to_builtins(rows)})
    elif rows:
        _print_table(rows)
    else:
        typer.echo(f"nothing is drained below {escape(tree.name)}")


def _print_table(rows: Sequence[Drained]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("path", "state", "since", "in flight", "by", "reason"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.since)) if row.since else "-"
        cells = (row.path, row.state, since, str(row.in_flight), row.by or "-", row.reason or "-")
        table.add_row(*(Text(escape(cell)) for cell in cells))
    Console(highlight=False).print(table)
