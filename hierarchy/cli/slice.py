"""`hierarchy slice CONFIG --node N` and `hierarchy schema`: the configuration for other machines and for editors."""

from __future__ import annotations

from typing import Annotated

import typer

from hierarchy.cli import flags


def slice_(
    config: flags.Config,
    node: Annotated[str, typer.Option(metavar="NAME", help="Node of the machine.", show_default=False)],
) -> None:
    """Print the part of a tree that one machine needs, as a configuration for `hierarchy serve` on it.

    About other nodes, it contains only the addresses of the parent and the children.
    """
    from hierarchy.topology.declared import read_tree
    from hierarchy.topology.slice import as_yaml, slice_of

    part = slice_of(read_tree(config), node)
    comment = f"The part of {config.name} for node {node}, written by `hierarchy slice`. Run it: hierarchy serve FILE"
    typer.echo(as_yaml(part, comment), nl=False)


def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    import json

    from hierarchy.config.json_schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
