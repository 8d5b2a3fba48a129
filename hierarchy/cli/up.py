"""`hierarchy up CONFIG`: a whole tree on this machine, one supervised process per node."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from hierarchy.cli import flags
from hierarchy.runtime import logs

_MARGIN_S = 5.0  # a node ends its streams within its own grace_s, and then itself


def up(
    config: flags.Config,
    exit_with_parent: flags.ExitWithParent = False,
    insecure: flags.Insecure = False,
    cleartext: flags.Cleartext = False,
) -> None:
    """Run a whole tree on this machine: one process for each node, restarted if it dies. Ctrl-C ends them all.

    Status 0 after a signal, 1 if a process could not be ended, 2 if the configuration is wrong or a node cannot start
    with it, for example because its port is in use.
    """
    import asyncio

    from hierarchy.cli.node_flags import NodeFlags
    from hierarchy.cli.supervise import OWN_NAME, Console, LinePrinter, supervise
    from hierarchy.config.models import load
    from hierarchy.runtime.processes import SupervisedProcess
    from hierarchy.security.access import Access
    from hierarchy.security.startup import check_start
    from hierarchy.topology import node_config
    from hierarchy.topology.declared import DeclaredTree

    tree = DeclaredTree(load(config))
    tree.require_valid()
    names, defaults = list(tree.config.nodes), tree.config.defaults
    given = NodeFlags(insecure=insecure, cleartext=cleartext)
    for name in names:
        node = given.over(node_config.from_tree(tree, name))
        check_start(node, Access(node))
    printer = LinePrinter()
    console = Console(printer.write, names, defaults.log_format, logs.wants_colour(printer))
    logs.setup(defaults.log_format, OWN_NAME, stream=console)
    processes = [
        SupervisedProcess(name, [*serve_command(config, name), *given.as_arguments()], console.on_line)
        for name in names
    ]
    grace_s = max(spec.settings(defaults).grace_s for spec in tree.config.nodes.values()) + _MARGIN_S
    try:
        status = asyncio.run(supervise(processes, grace_s, exit_with_parent=exit_with_parent))
    finally:
        printer.close()
    raise typer.Exit(status)


def serve_command(config: Path, node: str) -> list[str]:
    """The command of one node's process."""
    return [sys.executable, "-m", "hierarchy", "serve", str(config), "--node", node, "--exit-with-parent"]
