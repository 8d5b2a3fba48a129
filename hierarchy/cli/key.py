"""`hierarchy key`: keys of clients and operators. A key is printed once; its file contains only hashes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hierarchy.cli import flags
from hierarchy.cli.output import print_json, print_secret, write_secret
from hierarchy.errors import UsageError
from hierarchy.labels import write
from hierarchy.names import MAX_NAME, is_printable_name

if TYPE_CHECKING:
    from hierarchy.security.keys import Entry

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
    paths: Annotated[
        str | None,
        typer.Option(
            metavar="PATHS",
            help="What it may call, separated by commas: inference, 'POST /v1/batches', 'GET /v1/files*'.",
            show_default="what the node allows: inference",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When it becomes void: 90d, 24h, or 2027-01-31 (UTC).", show_default="never"),
    ] = None,
    require: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="Labels that whatever serves its requests must have: region=eu,trust=own.",
            show_default="none",
        ),
    ] = None,
    out: flags.Out = None,
    as_json: flags.AsJson = False,
) -> None:
    """Create a key and print it; only its hash is stored. A name may have two keys, so that one can replace another."""
    from hierarchy.security.keys import create_key

    if not is_printable_name(name):
        raise UsageError(f"--name: write 1 to {MAX_NAME} printable characters")
    allowed, callable_paths = flags.split_models(models), flags.split_paths(paths)
    labels = flags.labels("--require", require)
    end = flags.moment("--expires", expires, datetime.now(UTC)) if expires is not None else None

    def deliver(key: str) -> None:
        if out is not None:
            write_secret(key, out, overwrite=False)
        facts = {
            "name": name,
            "models": allowed,
            "expires": end.isoformat() if end else None,
            "paths": callable_paths,
            "require": labels,
        }
        print_secret("key", key, out, facts, as_json=as_json)

    if out is not None and out.resolve() == file.resolve():
        raise UsageError(f"--out {out}: is the file of keys itself, which contains only hashes; choose another file")
    create_key(file, name, allowed, expires=end, paths=callable_paths, require=labels, deliver=deliver)


@key_app.command("list")
def list_keys(file: File, as_json: flags.AsJson = False) -> None:
    """List the keys: id, name, day of creation, models, paths, required labels, and when a key expires."""
    from hierarchy.security.keys import read_keys

    entries = read_keys(file)
    if as_json:
        print_json({"keys": [_row(entry) for entry in entries]})
        return
    for entry in entries:
        models = ",".join(entry.models) if entry.models is not None else "all models"
        paths = f"  {','.join(entry.paths)}" if entry.paths is not None else ""
        labels = f"  requires {write(entry.require)}" if entry.require else ""
        typer.echo(f"{entry.id}  {entry.name}  {entry.created or '-'}  {models}{paths}{labels}{_end(entry)}")


def _row(entry: Entry) -> dict[str, object]:
    expires = entry.expires.isoformat() if entry.expires else None
    row: dict[str, object] = {
        "id": entry.id,
        "name": entry.name,
        "created": entry.created,
        "models": entry.models,
        "expires": expires,
    }
    row["paths"] = entry.paths
    row["require"] = entry.require or None
    return {**row, "expired": entry.void_at <= datetime.now(UTC).timestamp()}


def _end(entry: Entry) -> str:
    if entry.expires is None:
        return ""
    when = datetime.fromtimestamp(entry.void_at, UTC).strftime("%Y-%m-%d %H:%M")
    return f"  {'expired' if entry.void_at <= datetime.now(UTC).timestamp() else 'expires'} {when} UTC"


@key_app.command()
def revoke(
    file: File,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Revoke all keys of this name.")] = None,
    key_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Revoke the key with this id.")] = None,
    as_json: flags.AsJson = False,
) -> None:
    """Revoke keys. Nodes check the file twice a second."""
    from hierarchy.security.keys import revoke_keys

    if (name is None) == (key_id is None):
        raise UsageError("no key chosen; add either --name or --id")
    revoked = revoke_keys(file, name=name, key_id=key_id)
    if as_json:
        print_json({"revoked": [_row(entry) for entry in revoked]})
        return
    for entry in revoked:
        typer.echo(f"{entry.id}  {entry.name}  revoked")
