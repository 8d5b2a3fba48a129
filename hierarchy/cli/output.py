"""How commands print numbers and JSON."""

from __future__ import annotations

import json

import typer


def count(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_json(value: object) -> None:
    """Print what a command found as JSON, for programs."""
    typer.echo(json.dumps(value, indent=2))
