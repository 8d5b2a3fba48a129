"""The program as a whole: its commands, its version, and one line for each error."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from hierarchy.cli import (
    chat,
    check,
    doctor,
    drain,
    engine,
    explain,
    key,
    serve,
    simulate,
    slice,
    state,
    token,
    tree,
    up,
)
from hierarchy.cli.output import discard_output
from hierarchy.errors import HierarchyError, UsageError
from hierarchy.release import VERSION, build, data_path
from hierarchy.runtime.blocking import silence, silent_paths
from hierarchy.runtime.logs import escape

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},  # of all commands below, too
)
app.command()(serve.serve)
app.command()(up.up)
app.command()(check.check)
app.command("slice")(slice.slice_)
app.command()(slice.schema)
app.command()(chat.chat)
app.command()(tree.tree)
app.command()(explain.why)
app.command()(doctor.doctor)
app.command()(simulate.simulate)
app.command()(drain.drain)
app.command()(drain.undrain)
app.add_typer(engine.engine_app, name="engine")
app.add_typer(token.token_app, name="token")
app.add_typer(key.key_app, name="key")
app.add_typer(state.state_app, name="state")


def _show_version(is_given: bool) -> None:
    if is_given:
        typer.echo(f"hierarchy {VERSION} (build {build()}, {data_path()})")
        raise typer.Exit


@app.callback()
def hierarchy(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A controller of controllers: one address in front of LLM workers in many subnets."""


def run() -> int:
    """Run the command in `sys.argv`. Returns the exit status.

    An expected error is printed as one line on stderr (a bad configuration: one line for each problem). The status is
    2 for a `UsageError` and for a bad command line, and 1 for any other `HierarchyError`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that the terminal's encoding lacks
    if silent := silent_paths(_paths(sys.argv[1:])):  # typer itself looks at them
        _print_error(f"{silent[0]}: {silence()}; repair that mount, or name a path elsewhere")
        return 2
    try:
        status = app(prog_name="hierarchy", standalone_mode=False) or 0
        sys.stdout.flush()
        return status
    except OSError as error:
        return _output_failed(error)
    except HierarchyError as error:
        _print_error(*error.lines)
        return 2 if isinstance(error, UsageError) else 1
    except typer.TyperException as error:
        _print_error(_with_hint(error))
        return error.exit_code
    except typer.Abort:
        _print_error("aborted")
        return 1


def _paths(arguments: Iterable[str]) -> Iterator[Path]:
    """What could be the paths of files on a command line."""
    for argument in arguments:
        value = argument.partition("=")[2] if argument.startswith("-") else argument
        if value:
            yield Path(value.removeprefix("file:"))


def _output_failed(error: OSError) -> int:
    """A command has handled those of the files that it reads and writes: the output cannot be written.

    Returns the status.
    """
    if error.filename is not None:  # a defect, but no reason for a traceback
        _print_error(f"{error.filename}: {error.strerror}")
        return 1
    discard_output()
    if not isinstance(error, BrokenPipeError):  # `| head` has read enough
        with suppress(OSError):
            _print_error(f"cannot write the output: {error.strerror or error}")
    return 1


def _with_hint(error: typer.TyperException) -> str:
    """The message of a bad command line; empty where typer has printed the help instead."""
    message, context = error.format_message().rstrip(". "), getattr(error, "ctx", None)
    message = message.replace(". Did you mean", "; did you mean").removesuffix("?")
    return f"{message}; see: {context.command_path} --help" if message and context is not None else message


def _print_error(*lines: str) -> None:
    if any(lines):
        typer.echo("hierarchy: " + "\n".join(map(escape, lines)), err=True)
