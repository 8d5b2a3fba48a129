"""Whether a node may start as it is configured: secure by default, and told in one line what is missing."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping

from hierarchy.config.address import host_of, is_loopback
from hierarchy.config.models import NodeConfig
from hierarchy.errors import UsageError
from hierarchy.security.access import Access, state_dir

INSECURE = "or, where everybody who can reach it is trusted, say `insecure: true` (--insecure)"
log = logging.getLogger("hierarchy.security")


def check_start(config: NodeConfig, access: Access) -> None:
    """Raise `UsageError` if others could reach the node and keys are missing, or if it would speak in the clear."""
    spec = config.settings.security
    if spec.tokenless_workers and not spec.allow:
        raise _refusal(
            config, "`tokenless_workers` takes workers by their addresses", "set `allow` (--allow 10.1.0.0/24)"
        )
    if spec.insecure:
        return
    cleartext = "set `tls` (--tls-cert, --tls-key), or `cleartext: true` (--cleartext) in a network that you trust"
    for parent in config.parents:
        if parent.startswith("http:") and not spec.cleartext and not is_loopback(host_of(parent)):
            raise _refusal(config, f"its parent {parent} would be spoken to without TLS", cleartext)
    if not access.exposed:
        return
    where = ", ".join(f"{host}:{port}" for host, port in config.listen + config.admin if not is_loopback(host))
    if access.client_keys is None and not (config.parents and access.credentials):
        mend = "make keys with `hierarchy key create` and set `api_keys` (--api-keys)"
        raise _refusal(config, f"others can reach {where}, and it has no keys of clients", f"{mend}, {INSECURE}")
    takes_nodes = config.children or not (config.engines or spec.tokenless_workers)
    if spec.key is None and takes_nodes:
        mend = "make one with `hierarchy token key --out tree.key` and set `key` (--key-file)"
        raise _refusal(
            config, f"others can reach {where}, and it has no key to know its children by", f"{mend}, {INSECURE}"
        )
    if not spec.cleartext and access.tls.server is None:
        raise _refusal(config, f"others can reach {where} without TLS", cleartext)


def check_state_dir(config: NodeConfig, access: Access, environ: Mapping[str, str]) -> None:
    """Raise `UsageError` if what must be remembered could not be: used tokens, revocations, a credential to come."""
    if not (access.registration_policy.keeps_state or access.credentials):
        return
    folder = state_dir(config, environ)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _refusal(
            config, f"nothing can be remembered in {folder} ({error.strerror})", "set `state_dir` (--state-dir)"
        ) from None


def log_risks(config: NodeConfig, access: Access) -> None:
    """Say in the log what is less than safe."""
    spec = config.settings.security
    if spec.insecure:
        log.warning("insecure: whoever can reach this node may join, ask and operate, wherever no keys are set")
    elif spec.cleartext and (access.exposed or config.parents):
        log.warning("cleartext: what this node says to other machines can be read on the way")
    if access.exposed and access.client_keys is None and not spec.insecure:
        log.info("without `api_keys` this node serves nobody but its parents")


def _refusal(config: NodeConfig, what: str, mend: str) -> UsageError:
    return UsageError(f"node {config.name} does not start: {what}; {mend}")
