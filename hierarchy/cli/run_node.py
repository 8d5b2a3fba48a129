"""What `hierarchy serve` does: a node from a configuration or from flags, checked, and run until a signal.

This imports all that a node needs, so that none of its requests waits for an import.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import httpcore  # noqa: F401
import jwt  # noqa: F401
import uvloop

# What others import at their first use, as httpx does: all streams of a node would wait for a tenth of a second.
from anyio import connect_tcp, create_memory_object_stream  # noqa: F401

from hierarchy.api import build_app
from hierarchy.cli.node_flags import NodeFlags
from hierarchy.config.models import NodeConfig
from hierarchy.node import Node
from hierarchy.preflight import CannotStart, refusals, require_start
from hierarchy.reload import Reloader
from hierarchy.runtime import descriptors, logs
from hierarchy.runtime.garbage import Garbage
from hierarchy.runtime.line_writer import own_stderr
from hierarchy.runtime.malloc import keep_freed_memory
from hierarchy.runtime.parent_death import call_on_parent_death
from hierarchy.runtime.slices import shorten_switches
from hierarchy.security.startup import clean_state_dir, hold_state_dir, log_risks
from hierarchy.server import Server, bind
from hierarchy.topology import node_config
from hierarchy.topology.declared import read_tree


def from_flags(given: NodeFlags, name: str | None, *, exit_with_parent: bool = False) -> None:
    """Run the node `name` from flags alone. Raises `UsageError`."""
    run(given.config(name), exit_with_parent=exit_with_parent, environ=given.environ())


def from_config(config: Path, name: str | None, given: NodeFlags, *, exit_with_parent: bool = False) -> None:
    """Run the node `name` of the file `config`, with the flags that override it. Raises `UsageError`."""
    given.refuse_with_config(config)
    first, environ = given.over(from_file(config, name)), given.environ()
    read = partial(_read_again, config, name, given, environ)
    run(first, exit_with_parent=exit_with_parent, environ=environ, file=config, read=read)


def _read_again(config: Path, name: str | None, given: NodeFlags, environ: Mapping[str, str]) -> NodeConfig:
    """The changed configuration. Raises `UsageError` if the node could not start with it again."""
    made = given.over(from_file(config, name))
    if found := refusals(made, environ):
        raise CannotStart({made.name: found})
    return made


def from_file(path: Path, name: str | None) -> NodeConfig:
    """The configuration of the node `name` in a file.

    Args:
        name: None for the only node of the file, or for the node of a slice.

    Raises:
        UsageError: the file has no such node, or several and `name` is None.
        ConfigError: the tree has problems.
    """
    tree = read_tree(path)
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
    access = require_start(config, environ)
    declared = config
    config, sockets = bind(config)
    keep_freed_memory()
    shorten_switches()
    own_limit = descriptors.limit()
    descriptors.raise_limit()
    with own_stderr() as stderr:  # from here on nothing waits for the reader of the log
        logs.setup(config.settings.log_format, config.name, stream=stderr)
        if exit_with_parent:
            call_on_parent_death(lambda: os.kill(os.getpid(), signal.SIGTERM))
        log_risks(config, access)
        held = hold_state_dir(config, environ)
        clean_state_dir(config, environ, time.time())
        node = Node(config, access=access, engine_files=own_limit)
        reloader = Reloader(node, file, read, declared) if file is not None and read is not None else None
        Garbage().start()
        uvloop.run(Server(node, build_app(node), reloader).serve(sockets))
        if held is not None:
            held.release()
