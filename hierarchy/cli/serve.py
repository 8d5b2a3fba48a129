"""`hierarchy serve`: one node."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from hierarchy.api import build_app
from hierarchy.cli import flags
from hierarchy.config.address import DEFAULT_PORT
from hierarchy.config.models import NodeConfig, load
from hierarchy.errors import UsageError
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
    config: Annotated[Path | None, typer.Argument(help="YAML of the whole tree; with --node")] = None,
    node: Annotated[str | None, typer.Option(help="which node of the tree this is; without CONFIG: its name")] = None,
    host: Annotated[str | None, typer.Option(help="without CONFIG: address to listen on  [default: localhost]")] = None,
    port: Annotated[int | None, typer.Option(help=f"without CONFIG: port  [default: {DEFAULT_PORT}]")] = None,
    dispatch_method: Annotated[
        str | None, typer.Option(help="without CONFIG: lottery, shortest_queue (default), p2c or round_robin")
    ] = None,
    parent: Annotated[
        list[str] | None, typer.Option(help="without CONFIG: URL of the node above; may be given again")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(help="without CONFIG: KIND=URL, local=MODEL or simulated=MODEL; again for more")
    ] = None,
    advertise: Annotated[str | None, typer.Option(help="without CONFIG: URL at which the parent reaches us")] = None,
    link: Annotated[
        str | None,
        typer.Option(help="without CONFIG: who dials for requests: direct (the parent), reverse (we) or auto"),
    ] = None,
    replica: Annotated[
        bool, typer.Option("--replica", help="without CONFIG: other instances have the same --node name")
    ] = False,
    log_format: Annotated[str | None, typer.Option(help="text or json")] = None,
    insecure: flags.Insecure = False,
    cleartext: flags.Cleartext = False,
    join_token_file: flags.JoinTokenFile = None,
    key_file: flags.KeyFile = None,
    api_keys: flags.ApiKeys = None,
    admin_keys: flags.AdminKeys = None,
    admin_listen: flags.AdminListen = None,
    allow: flags.Allow = None,
    tokenless_workers: flags.Tokenless = False,
    state_dir: flags.StateDir = None,
    tls_cert: flags.TlsCert = None,
    tls_key: flags.TlsKey = None,
    tls_ca: flags.TlsCa = None,
    require_client_cert: flags.RequireClientCert = False,
    exit_with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run one node: from CONFIG and --node, or from flags alone."""
    given_flags = {
        "--host": host,
        "--port": port,
        "--dispatch-method": dispatch_method,
        "--parent": parent,
        "--engine": engine,
        "--advertise": advertise,
        "--link": link,
        "--replica": replica or None,
    }
    guards = flags.flags_of(
        insecure, cleartext, join_token_file,
        key_file=key_file, api_keys=api_keys, admin_keys=admin_keys, admin_listen=admin_listen, allow=allow,
        tokenless_workers=tokenless_workers, state_dir=state_dir, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca,
        require_client_cert=require_client_cert,
    )  # fmt: skip
    if log_format is not None and log_format not in ("text", "json"):
        raise UsageError(f"--log-format {log_format}: choose text or json")
    read: Callable[[], NodeConfig] | None = None
    if config is not None:
        given = [flag for flag, value in given_flags.items() if value not in (None, [])] + guards.given()
        if given:
            raise UsageError(f"{', '.join(given)}: not together with CONFIG; write it into {config}")
        file = config

        def read() -> NodeConfig:
            return guards.over(with_log_format(from_file(file, node), log_format))

        mine = read()
    else:
        mine = node_config.from_flags(
            hostname=socket.gethostname(),
            name=node,
            host=host or "localhost",
            port=DEFAULT_PORT if port is None else port,
            advertise=advertise,
            dispatch=dispatch_method or "shortest_queue",
            link=link or "direct",
            parents=parent or (),
            engines=engine or (),
            replica=replica,
        )
        mine = guards.over(with_log_format(mine, log_format), advertised=advertise is not None)
    run(mine, exit_with_parent=exit_with_parent, environ=guards.environ(), file=config, read=read)


def with_log_format(config: NodeConfig, log_format: str | None) -> NodeConfig:
    """What the command line says goes before what the file says."""
    if log_format is None:
        return config
    return config.model_copy(update={"settings": config.settings.model_copy(update={"log_format": log_format})})


def from_file(path: Path, name: str | None) -> NodeConfig:
    """The part of a tree that one node needs; its name may be left out where there is only one, and in a slice."""
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

    file, read: where the configuration came from, and how it is read again when it changes, or at SIGHUP.

    Raises:
        UsageError: it may not start as it is configured, or cannot.
    """
    access = Access(config, environ)
    check_start(config, access)
    check_state_dir(config, access, environ)
    said = config
    config, sockets = bind(config)
    keep_freed_memory()
    logs.setup(config.settings.log_format, config.name)
    if exit_with_parent:
        call_on_parent_death(lambda: os.kill(os.getpid(), signal.SIGTERM))
    log_risks(config, access)
    node = Node(config, access=access)
    reloader = Reloader(node, file, read, said) if file is not None and read is not None else None
    uvloop.run(Server(node, build_app(node), reloader).serve(sockets))
