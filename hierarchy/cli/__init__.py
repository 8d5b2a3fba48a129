"""The command line: `hierarchy COMMAND`. Each command has a module of its own; this one only joins them."""

from __future__ import annotations

import sys

import typer

from hierarchy.cli import chat, check, doctor, drain, engine, key, part, serve, token, up, why
from hierarchy.errors import UsageError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.command()(serve.serve)
app.command()(up.up)
app.command()(check.check)
app.command("slice")(part.slice_)
app.command()(part.schema)
app.command()(chat.chat)
app.command()(why.why)
app.command()(doctor.doctor)
app.command()(drain.drain)
app.command()(drain.undrain)
app.add_typer(engine.engine_app, name="engine")
app.add_typer(token.token_app, name="token")
app.add_typer(key.key_app, name="key")


def main() -> None:
    """Entry point. A `UsageError` becomes one clear line on stderr (or one a problem) and status 2."""
    try:
        app()
    except UsageError as error:
        print(f"hierarchy: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
