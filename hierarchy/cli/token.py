"""`hierarchy token`: the tree's key, and the tokens with which nodes join."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from hierarchy.cli import flags
from hierarchy.cli.client import ADMIN_KEY, NodeClient, client_tls, read_key
from hierarchy.errors import UsageError
from hierarchy.names import is_node_name
from hierarchy.runtime.files import write_private_file
from hierarchy.security.secret import read_secret_file
from hierarchy.security.tokens import Signer, create_tree_key, derive_parent_key, parent_key

token_app = typer.Typer(no_args_is_help=True, help="The tree's key, and the tokens with which nodes join.")
_TTL = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Out = Annotated[Path | None, typer.Option(help="file to write it to, with mode 0600  [default: stdout]")]
Node = Annotated[str, typer.Option(help="name of the node that shall join", show_default=False)]


@token_app.command()
def key(
    node: Annotated[str | None, typer.Option(help="derive the key of this node from --key-file")] = None,
    key_file: Annotated[Path | None, typer.Option(help="the tree's key, to derive one from")] = None,
    out: Out = None,
) -> None:
    """Make a tree's key; or with --node and --key-file the key of one node, for its machine alone.

    With its own key a node can take in children, and cannot make tokens for other parents.
    """
    if (node is None) != (key_file is None):
        raise UsageError("--node and --key-file go together: the key of a node is derived from the tree's")
    if node is None or key_file is None:
        _give(create_tree_key(), out, overwrite=False)
    else:
        _give(derive_parent_key(read_secret_file(key_file), _name(node)), out)


@token_app.command()
def create(
    node: Node,
    key_file: Annotated[Path, typer.Option(help="the tree's key, or the parent's own", show_default=False)],
    parent: Annotated[str, typer.Option(help="name of the node that it joins")] = "root",
    models: Annotated[str | None, typer.Option(help="models that it may serve, a,b,c  [default: any]")] = None,
    ttl: Annotated[str, typer.Option(help="how long it can be used: 30m, 24h, 7d")] = "24h",
    out: Out = None,
) -> None:
    """Make a token with which a node can join its parent, once."""
    match = _TTL.fullmatch(ttl)
    if match is None:
        raise UsageError(f"--ttl {ttl}: no length of time; write one such as 30m, 24h or 7d")
    signer = Signer(_name(parent), parent_key(read_secret_file(key_file), parent))
    ttl_s = int(match[1]) * _SECONDS[match[2]]
    _give(signer.join_token(_name(node), ttl_s, split_models(models)), out)


@token_app.command()
def revoke(
    node: Annotated[str, typer.Option(help="name of the node that shall be shut out", show_default=False)],
    url: Annotated[str, typer.Option(help="of its parent", show_default=False)],
    admin_key_file: flags.AdminKeyFile = None,
    tls_ca: flags.ClientTlsCa = None,
    tls_cert: flags.ClientTlsCert = None,
    tls_key: flags.ClientTlsKey = None,
) -> None:
    """Shut out a node: what was issued to it is void, and its connections are closed."""
    name = _name(node)
    tls = client_tls(tls_ca, tls_cert, tls_key)
    with NodeClient(url, key=read_key(admin_key_file, ADMIN_KEY), tls=tls) as parent:
        was_here = parent.post("/admin/revoke", {"node": name}).get("was_here")
    typer.echo(f"{node} is shut out" if was_here else f"{node} is shut out; it was not registered")


def split_models(models: str | None) -> list[str] | None:
    """`a,b` as a list; None for any."""
    if models is None:
        return None
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not names:
        raise UsageError("--models: names none; leave it out for any model")
    return names


def _name(node: str) -> str:
    if not is_node_name(node):
        raise UsageError(f"{node!r} is no node's name; write letters, digits, '.', '_' and '-'")
    return node


def _give(secret: str, out: Path | None, *, overwrite: bool = True) -> None:
    if out is None:
        typer.echo(secret)
        return
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: is there already, and a tree has one key; choose another name, or remove it first")
    try:
        write_private_file(out, secret + "\n")
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror})") from None
