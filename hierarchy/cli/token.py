"""`hierarchy token`: the tree's key, and the tokens with which nodes join the tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hierarchy.cli import flags
from hierarchy.cli.output import print_json, print_secret, write_secret
from hierarchy.errors import UsageError
from hierarchy.names import is_node_name

token_app = typer.Typer(no_args_is_help=True, help="Create the tree's key and join tokens, and revoke nodes.")


@token_app.command()
def key(
    node: Annotated[str | None, typer.Option(metavar="NAME", help="Node to derive a key for.")] = None,
    key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the tree's key.")] = None,
    out: flags.Out = None,
    as_json: flags.AsJson = False,
) -> None:
    """Create a tree's key; or with --node and --key-file, derive the key of one node from it.

    A node with a key of its own accepts children, but cannot issue tokens for other parents.
    """
    from hierarchy.security.secret import read_secret_file
    from hierarchy.security.tokens import create_tree_key, derive_parent_key

    if (node is None) != (key_file is None):
        raise UsageError("--node and --key-file go together: the key of a node is derived from the tree's")
    if node is None or key_file is None:
        _output("key", create_tree_key(), out, overwrite=False, as_json=as_json)
    else:
        derived = derive_parent_key(read_secret_file(key_file), _check_name(node))
        _output("key", derived, out, as_json=as_json, node=node)


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
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="Labels that all below it has, which requests may require: region=eu,trust=own.",
            show_default="none",
        ),
    ] = None,
    ttl: Annotated[str, typer.Option(metavar="TIME", help="How long it is valid: 30m, 24h, 7d.")] = "24h",
    out: flags.Out = None,
    as_json: flags.AsJson = False,
) -> None:
    """Create a token with which a node can join its parent, once."""
    from hierarchy.security.secret import read_secret_file
    from hierarchy.security.tokens import Signer, parent_key

    ttl_s = flags.seconds("--ttl", ttl)
    signer = Signer(_check_name(parent), parent_key(read_secret_file(key_file), parent))
    bound = flags.labels("--labels", labels, several=True)
    token = signer.join_token(_check_name(node), ttl_s, flags.split_models(models), bound)
    _output("token", token, out, as_json=as_json, node=node, parent=parent, valid_s=ttl_s, labels=bound)


@token_app.command()
def revoke(
    node: Annotated[str, typer.Option(metavar="NAME", help="Name of the node to revoke.", show_default=False)],
    url: Annotated[
        str, typer.Option(metavar="URL", envvar=flags.NODE_URL, help="URL of its parent.", show_default=False)
    ],
    as_json: flags.AsJson = False,
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Revoke a node: its token and credential become void, and its connections are closed."""
    from hierarchy.cli.client import open_node

    name = _check_name(node)
    with open_node(url, flags.ADMIN_KEY, admin_key_file, tls_ca, tls_cert, tls_key) as parent:
        page = parent.post("/admin/revoke", {"node": name})
    was_registered = page.get("was_here")
    if as_json:
        print_json(page)
        return
    typer.echo(f"{node} is revoked" + ("" if was_registered else "; it was not registered"))


def _check_name(node: str) -> str:
    if not is_node_name(node):
        raise UsageError(f"{node!r} is not a node's name; write letters, digits, '.', '_' and '-'")
    return node


def _output(
    kind: str, secret: str, out: Path | None, *, as_json: bool, overwrite: bool = True, **facts: object
) -> None:
    if out is not None:
        write_secret(secret, out, overwrite=overwrite)
    print_secret(kind, secret, out, facts, as_json=as_json)
