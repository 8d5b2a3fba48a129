"""All of one node's rules, opened from its configuration: keys, tokens, certificates, and what no keys mean.

on loopback alone, nothing set   everything is open, as in a try-out on one machine
something set                    that is in force; and with any key, what operators look at wants an admin key
others can reach it              all is in force: what has no keys is closed, unless `insecure`
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hierarchy.config.address import is_loopback
from hierarchy.config.models import NodeConfig
from hierarchy.errors import InvalidAdminKey, UsageError
from hierarchy.security.credential_store import CredentialStore
from hierarchy.security.dial_guard import DialGuard, networks
from hierarchy.security.keys import ANYONE, Caller, KeyFile, stranger
from hierarchy.security.registration_policy import RegistrationPolicy
from hierarchy.security.secret import read_secret, secret_path
from hierarchy.security.state import State
from hierarchy.security.tls import Tls
from hierarchy.security.tokens import Signer, parent_key

AUTHORIZATION, API_KEY = b"authorization", b"x-api-key"
_CLOSED = stranger("this node serves no clients: it has no `security.api_keys`")
_SILENT = stranger("no API key was sent; send it as: Authorization: Bearer KEY")
_UNKNOWN = stranger("this API key is not known here")


class Access:
    """Who may join, ask and operate at one node, and where it may dial. now: Unix seconds.

    Raises:
        UsageError: a secret, key file or certificate that cannot be used.
    """

    def __init__(
        self,
        config: NodeConfig,
        environ: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.time,
    ) -> None:
        spec = config.settings.security
        self.exposed = not all(is_loopback(host) for host, _ in config.listen + config.admin)
        closed = self.exposed and not spec.insecure
        self.client_keys = KeyFile(secret_path(spec.api_keys)) if spec.api_keys else None
        self.admin_keys = KeyFile(secret_path(spec.admin_keys)) if spec.admin_keys else None
        self.dial_guard = DialGuard(networks(spec.allow))
        name = config.replica_of or config.name  # replicas take the same children
        signer = Signer(name, parent_key(read_secret(spec.key, environ), name), now) if spec.key else None
        self.registration_policy = RegistrationPolicy(
            signer,
            State(state_dir(config, environ) / "state.json", now) if signer else None,
            self.dial_guard,
            in_force=closed or signer is not None,
            cleartext=spec.cleartext or spec.insecure,
            tokenless=spec.tokenless_workers,
        )
        self.credentials: CredentialStore | None = None
        if config.parents:
            self.credentials = CredentialStore.open(state_dir(config, environ) / "credential", spec.join_token, environ)
        self.tls = Tls(config.settings.tls)
        self._environ = environ
        self.engine_keys: dict[str, str] = {}
        self.requires_api_key = closed or self.client_keys is not None
        self.requires_admin_key = (
            closed or self.admin_keys is not None or ((self.client_keys or signer) is not None and not spec.insecure)
        )
        self.load_engine_keys(config)

    def load_engine_keys(self, config: NodeConfig) -> None:
        """Read the keys that the engines of a configuration want. Raises `UsageError`, and then changes nothing."""
        self.engine_keys = {
            engine.name: read_secret(engine.api_key, self._environ) for engine in config.engines if engine.api_key
        }

    @property
    def stripped_fields(self) -> frozenset[bytes]:
        """Fields of a client's request that are for this node, and go no further."""
        return frozenset({AUTHORIZATION, API_KEY}) if self.requires_api_key or self.engine_keys else frozenset()

    def identify_caller(self, fields: Mapping[bytes, bytes]) -> Caller:
        """Who asks, by the fields of a request (names in lower case)."""
        if not self.requires_api_key:
            return ANYONE
        if self.client_keys is None:
            return _CLOSED
        key = _shown(fields)
        return (self.client_keys.find(key) or _UNKNOWN) if key else _SILENT

    def check_admin(self, fields: Mapping[bytes, bytes]) -> None:
        """Raises `InvalidAdminKey` unless an operator asks, where that is asked for."""
        if not self.requires_admin_key:
            return
        if self.admin_keys is None:
            raise InvalidAdminKey("this node has no `security.admin_keys`, so nobody may look here")
        key = _bearer(fields)
        if not key:
            raise InvalidAdminKey("no admin key was sent; send it as: Authorization: Bearer KEY")
        if self.admin_keys.find(key) is None:
            raise InvalidAdminKey("this admin key is not known here")

    def refresh(self) -> bool:
        """Look at the files again, twice a second. Returns whether clients' keys changed."""
        self.tls.refresh()
        if self.admin_keys is not None:
            self.admin_keys.refresh()
        return self.client_keys is not None and self.client_keys.refresh()


def state_dir(config: NodeConfig, environ: Mapping[str, str]) -> Path:
    """The folder of what this node must remember. Raises `UsageError` if there is no place for it."""
    own = config.settings.security.state_dir
    if own is not None:
        return Path(own).expanduser() / config.name
    if systemd := environ.get("STATE_DIRECTORY"):
        return Path(systemd.partition(":")[0]) / config.name
    if base := environ.get("XDG_STATE_HOME"):
        return Path(base) / "hierarchy" / config.name
    try:
        return Path.home() / ".local" / "state" / "hierarchy" / config.name
    except RuntimeError:
        raise UsageError("this user has no home folder to remember things in; set `security.state_dir`") from None


def _shown(fields: Mapping[bytes, bytes]) -> bytes:
    """A client's key: as OpenAI's clients send it, else as Anthropic's do."""
    return _bearer(fields) or fields.get(API_KEY, b"").strip()


def _bearer(fields: Mapping[bytes, bytes]) -> bytes:
    scheme, _, key = fields.get(AUTHORIZATION, b"").strip().partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""
