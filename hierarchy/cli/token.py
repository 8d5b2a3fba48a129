"""`hierarchy token`: the tree's key, and the tokens with which nodes join the tree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from hierarchy.cli import flags
from hierarchy.errors import UsageError
from hierarchy.names import is_node_name
from hierarchy.runtime.files import write_private_file

token_app = typer.Typer(no_args_is_help=True, help="Create the tree's key and join tokens, and revoke nodes.")
_TTL = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write it to this file, with mode 0600.", show_default="stdout")
]


@token_app.command()
def key(
    node: Annotated[str | None, typer.Option(metavar="NAME", help="Node to derive a key for.")] = None,
    key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the tree's key.")] = None,
    out: Out = None,
) -> None:
    """Create a tree's key; or with --node and --key-file, derive the key of one node from it.

    A node with a key of its own accepts children, but cannot issue tokens for other parents.
    """
    from hierarchy.security.secret import read_secret_file
    from hierarchy.security.tokens import create_tree_key, derive_parent_key

    if (node is None) != (key_file is None):
        raise UsageError("--node and --key-file go together: the key of a node is derived from the tree's")
    if node is None or key_file is None:
        _output(create_tree_key(), out, overwrite=False)
    else:
        _output(derive_parent_key(read_secret_file(key_file), _check_name(node)), out)


@token_app.command()
def create(
    node: Annotated[str, typer.Option(metavar="NAME", help="Name of the node that may join.", show_default=False)],
    key_file: Annotated[
        Path, typer.Option(metavar="FILE", help="File with the tree's key, or the parent's own.", show_default=False)
    ],
    parent: Annotated[str, typer.Option(metavar="NAME", help="Name of the node that it joins.")] = "root",
    models: Annotated[
        str | None,
        typer.Option(metavar="MODELS", help="Models that it may serve, separated by commas.", show_default="any"),
    ] = None,
    ttl: Annotated[str, typer.Option(metavar="TIME", help="How long it is valid: 30m, 24h, 7d.")] = "24h",
    out: Out = None,
) -> None:
    """Create a token with which a node can join its parent, once."""
    from hierarchy.security.secret import read_secret_file
    from hierarchy.security.tokens import Signer, parent_key

    match = _TTL.fullmatch(ttl)
    if match is None:
        raise UsageError(f"--ttl {ttl}: not a length of time; write one such as 30m, 24h or 7d")
    signer = Signer(_check_name(parent), parent_key(read_secret_file(key_file), parent))
    ttl_s = int(match[1]) * _SECONDS[match[2]]
    _output(signer.join_token(_check_name(node), ttl_s, flags.split_models(models)), out)


@token_app.command()
def revoke(
    node: Annotated[str, typer.Option(metavar="NAME", help="Name of the node to revoke.", show_default=False)],
    url: Annotated[str, typer.Option(metavar="URL", help="URL of its parent.", show_default=False)],
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Revoke a node: its token and credential become void, and its connections are closed."""
    from hierarchy.cli.client import open_node

    name = _check_name(node)
    with open_node(url, flags.ADMIN_KEY, admin_key_file, tls_ca, tls_cert, tls_key) as parent:
        was_registered = parent.post("/admin/revoke", {"node": name}).get("was_here")
    typer.echo(f"{node} is revoked" + ("" if was_registered else "; it was not registered"))


def _check_name(node: str) -> str:
    if not is_node_name(node):
        raise UsageError(f"{node!r} is not a node's name; write letters, digits, '.', '_' and '-'")
    return node


def _output(secret: str, out: Path | None, *, overwrite: bool = True) -> None:
    if out is None:
        typer.echo(secret)
        return
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists already, and a tree has one key; choose another file, or remove it first")
    try:
        write_private_file(out, secret + "\n")
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror}); check its folder") from None
