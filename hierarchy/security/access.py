"""The access rules of one node, read from its configuration: keys, tokens, certificates, and what applies without keys.

Only loopback, nothing configured   everything is open, for a trial on one machine.
Something configured                it is enforced; with any key, the operators' paths require an admin key.
Other machines can reach the node   everything is enforced: what has no keys is closed, unless `insecure` is set.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hierarchy.config.client_paths import FOR_INFERENCE, ClientPaths, is_control
from hierarchy.config.models import NodeConfig
from hierarchy.errors import InvalidAdminKey
from hierarchy.runtime.disk import Disk
from hierarchy.runtime.expiry import DAY_S, Lifetime
from hierarchy.runtime.folders import expand
from hierarchy.runtime.metrics import Sample
from hierarchy.runtime.resolver import Resolver
from hierarchy.security import secret
from hierarchy.security.browsers import Browsers
from hierarchy.security.caller import ANYONE, Caller, refused_caller
from hierarchy.security.credential_store import CREDENTIAL_FILE, CredentialStore
from hierarchy.security.credential_store import UNSAVED as UNSAVED_CREDENTIAL
from hierarchy.security.dial_guard import DialGuard, parse_networks, registered_names
from hierarchy.security.exchange_page import PageSigner
from hierarchy.security.expiry_watch import ExpiryWatch
from hierarchy.security.keys import KeyFile
from hierarchy.security.record_keeper import RecordKeeper
from hierarchy.security.registration_policy import RegistrationPolicy
from hierarchy.security.secret import read_secret, secret_path
from hierarchy.security.state import credential_file, is_exposed, state_dir
from hierarchy.security.tls import TlsContexts
from hierarchy.security.token_store import FILE, TokenStore
from hierarchy.security.token_store import UNSAVED as UNSAVED_RECORDS
from hierarchy.security.tokens import Signer, parent_key

AUTHORIZATION, API_KEY = b"authorization", b"x-api-key"
_NO_CLIENTS = refused_caller("this node serves no clients: it has no `security.api_keys`")
_NO_KEY = refused_caller("no API key was sent; send it as: Authorization: Bearer KEY")
_UNKNOWN_KEY = refused_caller("this API key is not known here, or has expired")


class Access:
    """Who may join one node, send requests to it and operate it, and which addresses it may dial."""

    def __init__(
        self,
        config: NodeConfig,
        environ: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            environ: environment variables, for secrets named `env:NAME` and for the state folder.
            now: Unix seconds.

        Raises:
            UsageError: a secret, key file or certificate cannot be used.
        """
        security = config.settings.security
        #: whether other machines can reach this node
        self.exposed = is_exposed(config)
        closed = self.exposed and not security.insecure
        #: the clients' API keys; None if none are configured
        self.client_keys = KeyFile(secret_path(security.api_keys)) if security.api_keys else None
        #: the operators' keys; None if none are configured
        self.admin_keys = KeyFile(secret_path(security.admin_keys)) if security.admin_keys else None
        has_keys = self.client_keys is not None or security.key is not None
        #: whether clients must send an API key
        self.requires_api_key = closed or self.client_keys is not None
        #: whether operators must send an admin key
        self.requires_admin_key = closed or self.admin_keys is not None or (has_keys and not security.insecure)
        self.browsers = Browsers(config)
        self._paths = ClientPaths(security.paths) if security.paths else None
        #: reads and writes the files of this node while it runs
        self.disk = disk = Disk()
        #: looks up all host names that this node dials
        self.resolver = Resolver()
        self.dial_guard = DialGuard(parse_networks(security.allow), registered_names(self.resolver))
        self.registration_policy = _registration_policy(config, environ, now, self.dial_guard, disk, closed=closed)
        #: what this node shows to its parents; None without parents
        self.credentials = _credentials(config, environ, disk) if config.parents else None
        self.tls = TlsContexts(config.settings.tls, now)
        self.expiry = ExpiryWatch(self.lifetimes, now)
        #: sign what the instances of this node share (the first), and are accepted (all); () without a key
        self.shared_keys = _shared_keys(config, environ)
        #: with which this node takes fingerprints of prompts, unless a parent has another one; "" without a key
        self.prefix_key = _prefix_key(self.shared_keys)
        #: where it is kept; None if this node has no folder for its state
        self.shared_file = _shared_file(config, environ, self)
        #: the engines' own API keys, by engine name
        self.engine_keys: dict[str, str] = {}
        self._environ = environ
        self._config = config
        self._now = now
        self.load_engine_keys(config)

    def lifetimes(self) -> dict[str, Lifetime]:
        """What of this node expires, by the words for it in messages."""
        tls = self._config.settings.tls
        files = {"cert": f"certificate {tls.cert}", "ca": f"CA certificate {tls.ca}"}
        found = {files[setting]: lifetime for setting, lifetime in self.tls.lifetimes.items()}
        credential = self.credentials.lifetime() if self.credentials is not None else None
        return found if credential is None else {**found, "credential of this node": credential}

    @property
    def secret_variables(self) -> frozenset[str]:
        """Names of the environment variables that hold secrets of this node, which no engine needs."""
        return secret_variables(self._config)

    def warnings(self) -> list[str]:
        """What is wrong with this node's state and certificates, for operators; one line each."""
        records = self.registration_policy.records
        problem = records.problem() if records is not None else ""
        return ([problem] if problem else []) + self.disk.warnings() + self.expiry.warnings()

    def gauges(self) -> Iterator[Sample]:
        """Days until certificates and credentials expire, and the state of the records, for `/metrics`."""
        now, policy = self._now(), self.registration_policy
        for setting, lifetime in list(self.tls.lifetimes.items()):
            yield "hierarchy_certificate_days_left", (setting,), lifetime.days_left(now)
        own = self.credentials.lifetime() if self.credentials is not None else None
        if own is not None:
            yield "hierarchy_credential_days_left", (self._config.name,), own.days_left(now)
        if policy.records is None:
            return
        for grant in list(policy.grants()):
            yield "hierarchy_credential_days_left", (grant.node,), (grant.expires - now) / DAY_S
        yield "hierarchy_children_with_accepted_key", (), float(sum(grant.old_key for grant in policy.grants()))
        yield "hierarchy_records_incomplete", (), float(policy.records.store.is_incomplete)

    def load_engine_keys(self, config: NodeConfig) -> None:
        """Read the API keys of the engines in a configuration. Raises `UsageError` without changing anything."""
        self.engine_keys = self.read_engine_keys(config)

    def read_engine_keys(self, config: NodeConfig) -> dict[str, str]:
        """The API keys of the engines in a configuration, by engine name. Blocks. Raises `UsageError`."""
        return {engine.name: read_secret(engine.api_key, self._environ) for engine in config.engines if engine.api_key}

    @property
    def stripped_fields(self) -> frozenset[bytes]:
        """Fields of a client's request that are meant for this node only, and are not forwarded."""
        return frozenset({AUTHORIZATION, API_KEY}) if self.requires_api_key or self.engine_keys else frozenset()

    def identify_caller(self, fields: Mapping[bytes, bytes]) -> Caller:
        """The client that sent a request with these fields (names in lower case)."""
        if not self.requires_api_key:
            return ANYONE
        if self.client_keys is None:
            return _NO_CLIENTS
        # OpenAI's clients send the first, Anthropic's the second.
        key = bearer_token(fields.get(AUTHORIZATION, b"")) or fields.get(API_KEY, b"").strip()
        return (self.client_keys.find(key) or _UNKNOWN_KEY) if key else _NO_KEY

    def paths_of(self, caller: Caller) -> ClientPaths | None:
        """The list of what a client may call; None if it has none, and the node has none."""
        return self._paths if caller.paths is None else caller.paths

    def path_problem(self, caller: Caller, method: str, path: str) -> str:
        """Why a client may not call a path; "" if it may."""
        paths = self.paths_of(caller) or (FOR_INFERENCE if self.requires_api_key else None)
        if paths is not None:
            if (method, path) in paths:
                return ""
            of_key = "this API key is" if caller.name else "clients of this node are"
            return f"{of_key} not for {method} {path[:100]}; `paths` of the key, or `security.paths`, can allow it"
        if is_control(method, path):
            return f"{method} {path[:100]} changes an engine, or names a model; only `security.paths` can allow it"
        return ""

    def check_admin(self, fields: Mapping[bytes, bytes]) -> Caller:
        """The operator that sent a request.

        Raises:
            InvalidAdminKey: an admin key is required, and the request does not have a known one.
        """
        if not self.requires_admin_key:
            return ANYONE
        if self.admin_keys is None:
            raise InvalidAdminKey("this path is closed: this node has no `security.admin_keys`")
        key = bearer_token(fields.get(AUTHORIZATION, b""))
        if not key:
            raise InvalidAdminKey("no admin key was sent; send it as: Authorization: Bearer KEY")
        operator = self.admin_keys.find(key)
        if operator is None:
            raise InvalidAdminKey("this admin key is not known here, or has expired")
        return operator

    def expire(self) -> bool:
        """Drop keys that have expired, and warn of what expires. Returns whether the clients' keys changed."""
        self.expiry.check()
        if self.admin_keys is not None:
            self.admin_keys.expire()
        return self.client_keys is not None and self.client_keys.expire()

    async def refresh_client_keys(self) -> bool:
        """Read the file of the clients' keys again if it changed. Returns whether the keys changed."""
        return self.client_keys is not None and await self._refresh_keys(self.client_keys)

    async def refresh_admin_keys(self) -> None:
        """Read the file of the operators' keys again if it changed."""
        if self.admin_keys is not None:
            await self._refresh_keys(self.admin_keys)

    async def _refresh_keys(self, keys: KeyFile) -> bool:
        return await keys.refresh(self.disk.file(keys.path, "the keys that were read before stay valid"))

    async def refresh_tls(self) -> None:
        """Read the certificate and its key again if they changed."""
        cert = self._config.settings.tls.cert
        if cert is not None:
            meaning = "the certificate that was read before stays in use"
            await self.tls.refresh(self.disk.file(expand(cert), meaning))

    def reread(self) -> list[str]:
        """Read key and certificate files again at the next `refresh`. Returns what they are, for the log."""
        files = {"API keys": self.client_keys, "admin keys": self.admin_keys}
        found = [what for what, file in files.items() if file is not None]
        for file in files.values():
            if file is not None:
                file.reread()
        return found + (["certificate"] if self.tls.reread() else [])


def secret_variables(config: NodeConfig) -> frozenset[str]:
    """Names of the environment variables that may hold secrets of a node."""
    security = config.settings.security
    refs = [security.key, security.accepted_key, security.join_token, *(engine.api_key for engine in config.engines)]
    named = {ref.removeprefix("env:") for ref in refs if ref and ref.startswith("env:")}
    return frozenset(named | {secret.JOIN_TOKEN, secret.ADMIN_KEY, secret.API_KEY})


def bearer_token(authorization: bytes) -> bytes:
    """The token in the value of an `Authorization: Bearer TOKEN` field; b"" if it has another form."""
    scheme, _, token = authorization.strip().partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _registration_policy(
    config: NodeConfig,
    environ: Mapping[str, str],
    now: Callable[[], float],
    dial_guard: DialGuard,
    disk: Disk,
    *,
    closed: bool,
) -> RegistrationPolicy:
    security = config.settings.security
    signer, records = signer_of(config, environ, now), None
    if signer is not None:
        keys = _parent_keys(config, environ)
        store = TokenStore(state_dir(config, environ) / FILE, now)
        pages = PageSigner(signer.parent, keys[0], secrets.token_hex(8), now, keys[1:])
        place = disk.file(store.path, UNSAVED_RECORDS)
        records = RecordKeeper(store, pages, now, has_peers=bool(config.replicas), place=place)
    return RegistrationPolicy(
        signer,
        records,
        dial_guard,
        in_force=closed or signer is not None,
        cleartext=security.cleartext or security.insecure,
        tokenless=security.tokenless_workers,
    )


def signer_of(config: NodeConfig, environ: Mapping[str, str], now: Callable[[], float] = time.time) -> Signer | None:
    """What signs the tokens of a node's children; None if it has no key. Raises `UsageError`."""
    keys = _parent_keys(config, environ)
    name = config.replica_of or config.name  # replicas accept the same children
    return Signer(name, keys[0], now, keys[1:]) if keys else None


def _credentials(config: NodeConfig, environ: Mapping[str, str], disk: Disk) -> CredentialStore:
    path = credential_file(config, environ)
    place = disk.file(path, UNSAVED_CREDENTIAL)
    return CredentialStore.open(path, config.settings.security.join_token, environ, place)


def _prefix_key(keys: tuple[bytes, ...]) -> str:
    return hmac.digest(keys[0], b"hierarchy prefix", "sha256")[:16].hex() if keys else ""


def _shared_keys(config: NodeConfig, environ: Mapping[str, str]) -> tuple[bytes, ...]:
    """Derived from the node's keys, so that no record is a token."""
    return tuple(hmac.digest(key, b"shared", hashlib.sha256) for key in _parent_keys(config, environ))


def _parent_keys(config: NodeConfig, environ: Mapping[str, str]) -> list[bytes]:
    """The key that signs for this parent, and the accepted one, if there are any. Raises `UsageError`."""
    security, name = config.settings.security, config.replica_of or config.name
    keys = [parent_key(read_secret(ref, environ), name) for ref in (security.key, security.accepted_key) if ref]
    return keys if security.key else []


def _shared_file(config: NodeConfig, environ: Mapping[str, str], access: Access) -> Path | None:
    """In the state folder, if the node was given one or needs one anyway. Nodes for a trial share the user's folder
    with each other, and may have the same names: what was drained in one trial must not be drained in the next."""
    given = config.settings.security.state_dir is not None or bool(environ.get("STATE_DIRECTORY"))
    if given or access.registration_policy.keeps_state or (access.credentials and CREDENTIAL_FILE not in environ):
        return state_dir(config, environ) / "shared.json"
    return None
