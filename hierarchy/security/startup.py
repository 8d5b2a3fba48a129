"""Whether a node may start with its configuration. Secure by default: one line names what is missing."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping

from hierarchy.config.address import host_of, is_loopback
from hierarchy.config.models import NodeConfig
from hierarchy.errors import UsageError
from hierarchy.security.access import Access, state_dir

CLEARTEXT = "set `tls` (--tls-cert, --tls-key), or `cleartext: true` (--cleartext) in a network that you trust"
INSECURE = "or set `insecure: true` (--insecure) if all machines that can reach it are trusted"
log = logging.getLogger("hierarchy.security")


def check_start(config: NodeConfig, access: Access) -> None:
    """Raise `UsageError` if other machines can reach the node and keys are missing, or if it would use cleartext."""
    security = config.settings.security
    if security.tokenless_workers and not security.allow:
        raise _refusal(
            config, "`tokenless_workers` accepts workers by their addresses", "set `allow` (--allow 10.1.0.0/24)"
        )
    if not security.insecure:
        _check_parents(config)
        if access.exposed:
            _check_exposed(config, access)


def _check_parents(config: NodeConfig) -> None:
    for parent in config.parents:
        if parent.startswith("http:") and not config.settings.security.cleartext and not is_loopback(host_of(parent)):
            raise _refusal(config, f"it would connect to its parent {parent} without TLS", CLEARTEXT)


def _check_exposed(config: NodeConfig, access: Access) -> None:
    """Checks for a node that other machines can reach."""
    security = config.settings.security
    where = ", ".join(f"{host}:{port}" for host, port in config.listen + config.admin if not is_loopback(host))
    if access.client_keys is None and not (config.parents and access.credentials):
        hint = "make keys with `hierarchy key create` and set `api_keys` (--api-keys)"
        raise _refusal(config, f"others can reach {where}, and it has no API keys for clients", f"{hint}, {INSECURE}")
    accepts_nodes = config.children or not (config.engines or security.tokenless_workers)
    if security.key is None and accepts_nodes:
        hint = "make one with `hierarchy token key --out tree.key` and set `key` (--key-file)"
        raise _refusal(
            config, f"others can reach {where}, and it has no key to check its children's tokens", f"{hint}, {INSECURE}"
        )
    if not security.cleartext and access.tls.server is None:
        raise _refusal(config, f"others can reach {where} without TLS", CLEARTEXT)


def check_state_dir(config: NodeConfig, access: Access, environ: Mapping[str, str]) -> None:
    """Raise `UsageError` if the node needs a state folder, for tokens or a credential, and cannot write to it."""
    if not (access.registration_policy.keeps_state or access.credentials):
        return
    folder = state_dir(config, environ)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _refusal(
            config, f"its state cannot be written to {folder} ({error.strerror})", "set `state_dir` (--state-dir)"
        ) from None


def log_risks(config: NodeConfig, access: Access) -> None:
    """Log the settings that reduce security."""
    security = config.settings.security
    if security.insecure:
        log.warning(
            "insecure: every machine that can reach this node may register, send requests and operate it, "
            "except where keys are set"
        )
    elif security.cleartext and (access.exposed or config.parents):
        log.warning("cleartext: what this node and other machines send to each other can be read on the way")
    if access.exposed and access.client_keys is None and not security.insecure:
        log.info("without `api_keys` this node serves only its parents")


def _refusal(config: NodeConfig, problem: str, hint: str) -> UsageError:
    return UsageError(f"node {config.name} does not start: {problem}; {hint}")
