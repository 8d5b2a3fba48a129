"""`hierarchy up CONFIG`: a whole tree on this machine, one supervised process per node."""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hierarchy.cli import flags
from hierarchy.runtime import logs

if TYPE_CHECKING:
    from hierarchy.cli.join_tokens import NodeRun
    from hierarchy.cli.node_flags import NodeFlags
    from hierarchy.topology.declared import DeclaredTree

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
    from hierarchy.cli.join_tokens import prepare
    from hierarchy.cli.node_flags import NodeFlags
    from hierarchy.topology.declared import read_tree

    tree = read_tree(config)
    given = NodeFlags(insecure=insecure, cleartext=cleartext)
    # It is created with the first token: only then is Ctrl-C handled, which removes it.
    folder = Path(tempfile.gettempdir()) / f"hierarchy-up-{secrets.token_hex(8)}"
    runs = prepare(tree, given, folder)
    try:
        raise typer.Exit(_run(config, tree, given, runs, exit_with_parent=exit_with_parent))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(config: Path, tree: DeclaredTree, given: NodeFlags, runs: Sequence[NodeRun], *, exit_with_parent: bool) -> int:
    import asyncio

    from hierarchy.cli.supervise import OWN_NAME, Console, supervise
    from hierarchy.runtime.line_writer import own_stderr
    from hierarchy.runtime.processes import SupervisedProcess

    names, defaults = list(tree.config.nodes), tree.config.defaults
    with own_stderr() as writer:
        console = Console(writer.write, names, defaults.log_format, logs.wants_colour(writer))
        writer.describe = console.on_gap
        logs.setup(defaults.log_format, OWN_NAME, stream=console)
        processes = [
            SupervisedProcess(
                run.name,
                [*serve_command(config, run.name), *given.as_arguments(), *run.arguments],
                console.on_line,
                env=run.env,
                before_start=run.write_token,
            )
            for run in runs
        ]
        grace_s = max(spec.settings(defaults).grace_s for spec in tree.config.nodes.values()) + _MARGIN_S
        return asyncio.run(supervise(processes, grace_s, exit_with_parent=exit_with_parent))


def serve_command(config: Path, node: str) -> list[str]:
    """The command of one node's process."""
    return [sys.executable, "-m", "hierarchy", "serve", str(config), "--node", node, "--exit-with-parent"]
