"""`hierarchy serve`: run one node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hierarchy.cli import flags


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
    replica_url: flags.ReplicaUrl = None,
    key_file: flags.KeyFile = None,
    accepted_key_file: flags.AcceptedKeyFile = None,
    api_keys: flags.ApiKeys = None,
    admin_keys: flags.AdminKeys = None,
    admin_listen: flags.AdminListen = None,
    allow: flags.Allow = None,
    allowed_host: flags.AllowedHost = None,
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
    from hierarchy.cli import run_node
    from hierarchy.cli.node_flags import NodeFlags

    given = NodeFlags(
        log_format, join_token_file, insecure, cleartext,
        host=host, port=port, dispatch_method=dispatch_method, parent=parent, engine=engine, advertise=advertise,
        link=link, replica=replica, replica_url=replica_url, key_file=key_file, accepted_key_file=accepted_key_file,
        api_keys=api_keys, admin_keys=admin_keys,
        admin_listen=admin_listen, allow=allow, allowed_host=allowed_host, tokenless_workers=tokenless_workers,
        state_dir=state_dir,
        tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca, require_client_cert=require_client_cert,
    )  # fmt: skip
    if config is None:
        run_node.from_flags(given, node, exit_with_parent=exit_with_parent)
    else:
        run_node.from_config(config, node, given, exit_with_parent=exit_with_parent)
