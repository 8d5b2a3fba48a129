"""The command line: `hierarchy COMMAND`. Each command has a module of its own; this one only joins them."""

from __future__ import annotations

import sys

import typer

from hierarchy.cli.chat import chat
from hierarchy.cli.check import check
from hierarchy.cli.engine import engine_app
from hierarchy.cli.serve import serve
from hierarchy.cli.up import up
from hierarchy.errors import UsageError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.command()(serve)
app.command()(up)
app.command()(check)
app.command()(chat)
app.add_typer(engine_app, name="engine")


def main() -> None:
    """Entry point. A `UsageError` becomes one clear line on stderr (or one a problem) and status 2."""
    try:
        app()
    except UsageError as error:
        print(f"hierarchy: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
