"""`hierarchy key`: keys of clients and operators. A key is printed once; its file contains only hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hierarchy.cli import flags
from hierarchy.errors import UsageError
from hierarchy.names import MAX_NAME, is_printable_name

key_app = typer.Typer(no_args_is_help=True, help="Create, list and revoke the keys of clients and operators.")

File = Annotated[Path, typer.Option(metavar="FILE", help="File of keys.", show_default=False)]


@key_app.command()
def create(
    name: Annotated[str, typer.Option(metavar="NAME", help="Owner of the key.", show_default=False)],
    file: File,
    models: Annotated[
        str | None,
        typer.Option(metavar="MODELS", help="Models that it may use, separated by commas.", show_default="all"),
    ] = None,
) -> None:
    """Create a key and print it; only its hash is stored. A name may have two keys, so that one can replace another."""
    from hierarchy.security.keys import create_key

    if not is_printable_name(name):
        raise UsageError(f"--name: write 1 to {MAX_NAME} printable characters")
    typer.echo(create_key(file, name, flags.split_models(models)))


@key_app.command("list")
def list_keys(file: File) -> None:
    """List the keys: id, name, day of creation, models."""
    from hierarchy.security.keys import read_keys

    for entry in read_keys(file):
        models = ",".join(entry.models) if entry.models is not None else "all models"
        typer.echo(f"{entry.id}  {entry.name}  {entry.created or '-'}  {models}")


@key_app.command()
def revoke(
    file: File,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Revoke all keys of this name.")] = None,
    key_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Revoke the key with this id.")] = None,
) -> None:
    """Revoke keys. Nodes check the file twice a second."""
    from hierarchy.security.keys import revoke_keys

    if (name is None) == (key_id is None):
        raise UsageError("no key chosen; add either --name or --id")
    for entry in revoke_keys(file, name=name, key_id=key_id):
        typer.echo(f"{entry.id}  {entry.name}  revoked")
