"""`hierarchy serve`: run one node."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from hierarchy.api import build_app
from hierarchy.cli import flags
from hierarchy.config.models import NodeConfig, load
from hierarchy.node import Node
from hierarchy.reload import Reloader
from hierarchy.runtime import logs
from hierarchy.runtime.malloc import keep_freed_memory
from hierarchy.runtime.parent_death import call_on_parent_death
from hierarchy.security.access import Access
from hierarchy.security.startup import check_start, check_state_dir, log_risks
from hierarchy.server import Server, bind
from hierarchy.topology import node_config
from hierarchy.topology.declared import DeclaredTree


def serve(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="YAML file of the whole tree, or of a slice of it.", show_default=False),
    ] = None,
    node: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With CONFIG: which of its nodes to run. Without: the name of this node."),
    ] = None,
    log_format: flags.LogFormatFlag = None,
    join_token_file: flags.JoinTokenFile = None,
    insecure: flags.Insecure = False,
    cleartext: flags.Cleartext = False,
    exit_with_parent: flags.ExitWithParent = False,
    host: flags.Host = None,
    port: flags.Port = None,
    dispatch_method: flags.DispatchMethod = None,
    parent: flags.Parent = None,
    engine: flags.Engine = None,
    advertise: flags.Advertise = None,
    link: flags.Link = None,
    replica: flags.Replica = False,
    key_file: flags.KeyFile = None,
    api_keys: flags.ApiKeys = None,
    admin_keys: flags.AdminKeys = None,
    admin_listen: flags.AdminListen = None,
    allow: flags.Allow = None,
    tokenless_workers: flags.TokenlessWorkers = False,
    state_dir: flags.StateDir = None,
    tls_cert: flags.TlsCert = None,
    tls_key: flags.TlsKey = None,
    tls_ca: flags.TlsCa = None,
    require_client_cert: flags.RequireClientCert = False,
) -> None:
    """Run one node, from CONFIG and --node or from flags alone.

    Status 0 after SIGTERM or Ctrl-C, 2 if the configuration is wrong or the node cannot start with it.
    """
    given = flags.NodeFlags(
        log_format, join_token_file, insecure, cleartext,
        host=host, port=port, dispatch_method=dispatch_method, parent=parent, engine=engine, advertise=advertise,
        link=link, replica=replica, key_file=key_file, api_keys=api_keys, admin_keys=admin_keys,
        admin_listen=admin_listen, allow=allow, tokenless_workers=tokenless_workers, state_dir=state_dir,
        tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca, require_client_cert=require_client_cert,
    )  # fmt: skip
    if config is None:
        run(given.config(node), exit_with_parent=exit_with_parent, environ=given.environ())
        return
    given.refuse_with_config(config)
    read = partial(_read, config, node, given)
    run(read(), exit_with_parent=exit_with_parent, environ=given.environ(), file=config, read=read)


def _read(config: Path, node: str | None, given: flags.NodeFlags) -> NodeConfig:
    return given.over(from_file(config, node))


def from_file(path: Path, name: str | None) -> NodeConfig:
    """The configuration of the node `name` in a file.

    Args:
        name: None for the only node of the file, or for the node of a slice.

    Raises:
        UsageError: the file has no such node, or several and `name` is None.
        ConfigError: the tree has problems.
    """
    tree = DeclaredTree(load(path))
    return node_config.from_tree(tree, tree.choose_node(name))


def run(
    config: NodeConfig,
    *,
    exit_with_parent: bool = False,
    environ: Mapping[str, str] = os.environ,
    file: Path | None = None,
    read: Callable[[], NodeConfig] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; a second Ctrl-C does not wait for running streams.

    Args:
        exit_with_parent: end when stdin ends, too.
        file: the file of the configuration, which is read again when it changes, and at SIGHUP; None for none.
        read: returns the present configuration of the file.

    Raises:
        UsageError: the node must not start with this configuration, or cannot.
    """
    access = Access(config, environ)
    check_start(config, access)
    check_state_dir(config, access, environ)
    declared = config
    config, sockets = bind(config)
    keep_freed_memory()
    logs.setup(config.settings.log_format, config.name)
    if exit_with_parent:
        call_on_parent_death(lambda: os.kill(os.getpid(), signal.SIGTERM))
    log_risks(config, access)
    node = Node(config, access=access)
    reloader = Reloader(node, file, read, declared) if file is not None and read is not None else None
    uvloop.run(Server(node, build_app(node), reloader).serve(sockets))
