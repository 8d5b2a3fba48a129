"""Join tokens for the nodes of `hierarchy up`, which starts both a child and its parent on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hierarchy.cli.node_flags import NodeFlags
from hierarchy.config.models import NodeConfig
from hierarchy.errors import UsageError
from hierarchy.preflight import CannotStart, hung, refusals
from hierarchy.runtime.files import write_private_file
from hierarchy.security.access import signer_of
from hierarchy.security.credential_store import CREDENTIAL_FILE
from hierarchy.security.secret import JOIN_TOKEN
from hierarchy.security.tokens import Signer
from hierarchy.topology import node_config
from hierarchy.topology.declared import DeclaredTree

TOKEN_S = 86400.0  # how long a node may wait for its parent; each start gets a new token


@dataclass(frozen=True)
class NodeRun:
    """One node of `up`, and how it joins a parent that asks for a token."""

    #: name of the node
    name: str
    #: makes a join token for it; None if no parent of it has a key
    make_token: Callable[[], str] | None
    #: of this run alone; for the token, and for the credential that the node gets for it
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """Environment variables of its process."""
        return {} if self.make_token is None else {CREDENTIAL_FILE: str(self.folder / f"{self.name}.credential")}

    @property
    def arguments(self) -> list[str]:
        """Arguments of its `serve`."""
        return [] if self.make_token is None else ["--join-token-file", str(self._token_file)]

    def write_token(self) -> None:
        """Write a new token, since each is for one process. Raises OSError."""
        if self.make_token is not None:
            write_private_file(self._token_file, self.make_token() + "\n")

    @property
    def _token_file(self) -> Path:
        return self.folder / f"{self.name}.token"


def prepare(tree: DeclaredTree, given: NodeFlags, folder: Path) -> list[NodeRun]:
    """The nodes of a tree, each with tokens for its parent, signed with the parent's own key. Nothing is written.

    Raises:
        CannotStart: a node cannot start.
    """
    configs = {name: given.over(node_config.from_tree(tree, name)) for name in tree.config.nodes}
    if silent := hung(configs.values(), os.environ):  # the keys that sign tokens may be among them
        raise CannotStart(silent)
    runs, found = [], {}
    for name, config in configs.items():
        parents = [configs[parent] for parent in tree.graph.members[name].parents]
        run = NodeRun(name, _token_maker(config, parents), folder)
        runs.append(run)
        environ = {**os.environ, **run.env}
        if run.make_token is not None:
            config = replace(given, join_token_file="-").over(config)  # as if it came from stdin
            environ[JOIN_TOKEN] = run.make_token()
        found[name] = refusals(config, environ)
    if any(found.values()):
        raise CannotStart(found)
    return runs


def _token_maker(config: NodeConfig, parents: Iterable[NodeConfig]) -> Callable[[], str] | None:
    signer = next((found for found in map(_signer, parents) if found is not None), None)
    return None if signer is None else partial(signer.join_token, config.replica_of or config.name, TOKEN_S)


def _signer(parent: NodeConfig) -> Signer | None:
    try:
        return signer_of(parent, os.environ)
    except UsageError:
        return None  # the parent itself does not start, which says why
