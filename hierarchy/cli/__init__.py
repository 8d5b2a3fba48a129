"""The command line: `hierarchy COMMAND`. Each command has a module of its own; this one only joins them."""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Annotated

import typer

from hierarchy.cli import chat, check, doctor, drain, engine, explain, key, serve, slice, token, up
from hierarchy.errors import UsageError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.command()(serve.serve)
app.command()(up.up)
app.command()(check.check)
app.command("slice")(slice.slice_)
app.command()(slice.schema)
app.command()(chat.chat)
app.command()(explain.why)
app.command()(doctor.doctor)
app.command()(drain.drain)
app.command()(drain.undrain)
app.add_typer(engine.engine_app, name="engine")
app.add_typer(token.token_app, name="token")
app.add_typer(key.key_app, name="key")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"hierarchy {metadata.version('hierarchy')} ({build()})")  # noqa: T201
        raise typer.Exit


@app.callback()
def hierarchy(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A controller of controllers: one address in front of LLM workers in many subnets."""


def build() -> str:
    """Is the data path `compiled`, or `interpreted`?"""
    found = find_spec("hierarchy.relay.downstream.connection")
    return "interpreted" if found is not None and str(found.origin).endswith(".py") else "compiled"


def main() -> None:
    """Entry point. A `UsageError` becomes one clear line on stderr (or one a problem) and status 2."""
    try:
        app()
    except UsageError as error:
        print(f"hierarchy: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
