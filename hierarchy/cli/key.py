"""`hierarchy key`: the keys of clients and operators. A key is printed once; its file holds only hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hierarchy.cli.token import split_models
from hierarchy.errors import UsageError
from hierarchy.names import MAX_NAME, is_printable_name
from hierarchy.security.keys import create_key, read_keys, revoke_keys

key_app = typer.Typer(no_args_is_help=True, help="Keys of clients and operators.")

File = Annotated[Path, typer.Option(help="file of keys", show_default=False)]


@key_app.command()
def create(
    name: Annotated[str, typer.Option(help="whose key it is", show_default=False)],
    file: File,
    models: Annotated[str | None, typer.Option(help="models that it may use, a,b,c  [default: all]")] = None,
) -> None:
    """Make a key and print it, this once. A name may have two, so that one can be exchanged for the other."""
    if not is_printable_name(name):
        raise UsageError(f"--name: write 1 to {MAX_NAME} printable characters")
    typer.echo(create_key(file, name, split_models(models)))


@key_app.command("list")
def list_keys(file: File) -> None:
    """List the keys: id, name, day of making, models."""
    for entry in read_keys(file):
        models = ",".join(entry.models) if entry.models is not None else "all models"
        typer.echo(f"{entry.id}  {entry.name}  {entry.created or '-'}  {models}")


@key_app.command()
def revoke(
    file: File,
    name: Annotated[str | None, typer.Option(help="take out all keys of this name")] = None,
    key_id: Annotated[str | None, typer.Option("--id", help="take out the key of this id")] = None,
) -> None:
    """Take keys out. Nodes look at the file twice a second."""
    if (name is None) == (key_id is None):
        raise UsageError("say which key: either --name or --id")
    for entry in revoke_keys(file, name=name, key_id=key_id):
        typer.echo(f"{entry.id}  {entry.name}  revoked")
