"""What follows from a node's configuration alone: who can reach it, and where it keeps what it must remember."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hierarchy.config.address import is_loopback
from hierarchy.config.models import NodeConfig
from hierarchy.runtime.folders import expand, state_folder
from hierarchy.security.credential_store import CREDENTIAL_FILE

RUNNING = "running.lock"  # in a state folder; each node that uses the folder holds it


def is_exposed(config: NodeConfig) -> bool:
    """Whether other machines can reach a node."""
    return not all(is_loopback(host) for host, _ in config.listen + config.admin)


def state_dir(config: NodeConfig, environ: Mapping[str, str]) -> Path:
    """The folder of a node's credential, used tokens and revocations. Raises `UsageError` if there is none."""
    own = config.settings.security.state_dir
    folder = state_folder(environ) if own is None else expand(own)
    return folder / config.name


def credential_file(config: NodeConfig, environ: Mapping[str, str]) -> Path:
    """The file of a node's credential. Raises `UsageError` if there is no folder for it."""
    own = environ.get(CREDENTIAL_FILE)
    return Path(own) if own else state_dir(config, environ) / "credential"
