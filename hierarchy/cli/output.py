"""How commands print numbers and JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import typer

from hierarchy.errors import UsageError
from hierarchy.runtime.files import write_private_file


def count(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_json(value: object) -> None:
    """Print what a command found as JSON, for programs."""
    typer.echo(json.dumps(value, indent=2))


def write_secret(secret: str, out: Path, *, overwrite: bool = True) -> None:
    """Write a secret to a file of mode 0600. Raises `UsageError` if that fails, or if it must not be overwritten."""
    if not overwrite and out.exists():
        raise UsageError(f"{out}: exists already, and its secret would be lost; choose another file, or remove it")
    try:
        write_private_file(out, secret + "\n")
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror}); check its folder") from None


def print_secret(kind: str, secret: str, out: Path | None, facts: Mapping[str, object], *, as_json: bool) -> None:
    """Print a secret, or nothing if it is in the file `out`; as JSON with `facts`, or alone.

    Raises:
        UsageError: the output cannot be written.
    """
    try:
        if as_json:
            print_json({**({kind: secret} if out is None else {"file": str(out)}), **facts})
        elif out is None:
            typer.echo(secret)
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        raise UsageError(f"the {kind} cannot be shown ({error.strerror}); nothing is stored") from None


def discard_output() -> None:
    """Drop what could not be written: it would fail once more at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
