"""`hierarchy state`: what a node must remember, backed up, restored, and confirmed after a loss."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hierarchy.cli import flags
from hierarchy.cli.output import print_json
from hierarchy.errors import UsageError
from hierarchy.names import is_node_name

state_app = typer.Typer(
    no_args_is_help=True,
    help="Back up and restore what a node remembers: its credential, used tokens, revocations, drains.",
)

Config = Annotated[
    Path | None, typer.Argument(metavar="CONFIG", help="YAML file of the tree of the node.", show_default=False)
]
Name = Annotated[
    str | None,
    typer.Option("--node", metavar="NAME", help="The node. Without CONFIG it is required.", show_default=False),
]
StateDir = Annotated[
    str | None,
    typer.Option(
        "--state-dir",
        metavar="FOLDER",
        help="Without CONFIG: its `state_dir`.",
        show_default="as for `hierarchy serve`",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


@state_app.command()
def backup(
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write, with mode 0600.", show_default=False)],
    config: Config = None,
    node: Name = None,
    folder: StateDir = None,
    force: Force = False,
    as_json: flags.AsJson = False,
) -> None:
    """Write the state of a node to one file. The node may run.

    The file is as secret as the folder: it has the node's credential. Keys and certificates are not in it.
    """
    from hierarchy.security import state_archive

    name, path = _choose(config, node, folder)
    summary = state_archive.backup(path, name, out, force=force)
    if as_json:
        print_json({"file": str(out), "node": name, "files": summary.files})
        return
    typer.echo(f"{out}: state of {name}: {', '.join(summary.files)}")


@state_app.command()
def restore(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="File from `backup`.", show_default=False)],
    config: Config = None,
    node: Name = None,
    folder: StateDir = None,
    force: Force = False,
    as_json: flags.AsJson = False,
) -> None:
    """Restore the state of a node that is stopped.

    With --force, state that is there is replaced, and kept in a folder beside it.
    """
    from hierarchy.runtime.expiry import date_of
    from hierarchy.security import state_archive

    name, path = _choose(config, node, folder)
    summary, kept = state_archive.restore(path, name, archive, force=force)
    if as_json:
        replaced = None if kept is None else str(kept)
        print_json({"folder": str(path), "files": summary.files, "made": summary.made, "replaced": replaced})
        return
    typer.echo(f"{path}: restored {', '.join(summary.files)} as of {date_of(summary.made)}")
    if kept is not None:
        typer.echo(f"{kept}: what was there before")
    typer.echo("what was revoked after that is not in it: revoke it again, unless a replica of the node has it")


@state_app.command()
def confirm(
    url: Annotated[
        str, typer.Option(metavar="URL", envvar=flags.NODE_URL, help="URL of the node.", show_default=False)
    ],
    as_json: flags.AsJson = False,
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Tell a node that lost its records of tokens and revocations to accept join tokens again, and renew credentials.

    First revoke again what was revoked.
    """
    from hierarchy.cli.client import open_node

    with open_node(url, flags.ADMIN_KEY, admin_key_file, tls_ca, tls_cert, tls_key) as client:
        answer = client.post("/admin/confirm_state", {})
    name = answer.get("node", url)
    if as_json:
        print_json(answer)
    elif answer.get("was_incomplete"):
        typer.echo(f"{name} accepts join tokens and renews credentials again")
    else:
        typer.echo(f"{name} misses no records; there was nothing to confirm")


def _choose(config: Path | None, node: str | None, folder: str | None) -> tuple[str, Path]:
    """The name of the node, and its state folder."""
    from hierarchy.runtime.folders import expand, state_folder

    if config is not None:
        from hierarchy.cli.run_node import from_file
        from hierarchy.security.state import state_dir

        if folder is not None:
            raise UsageError(f"--state-dir: not together with CONFIG; {config} names it")
        found = from_file(config, node)
        return found.name, state_dir(found, os.environ)
    if node is None:
        raise UsageError("no node chosen; name CONFIG, or --node and --state-dir")
    if not is_node_name(node):
        raise UsageError(f"{node!r} is not a node's name; write letters, digits, '.', '_' and '-'")
    return node, (expand(folder) if folder is not None else state_folder(os.environ)) / node
