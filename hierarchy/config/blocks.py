"""The base of all models of the configuration, and its blocks `security` and `tls`.

A configuration never contains a secret, only where it is: `env:NAME` or `file:PATH`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from hierarchy.config.address import network_hint
from hierarchy.config.client_paths import check_entries


class Strict(BaseModel):
    """A model that refuses unknown keys. An empty value (`key:` alone) means the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, data: Any) -> Any:
        if data is None:
            return {}
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}
        return data

    def over(self, defaults: Self) -> Self:
        """A copy of `defaults` with the fields that are set here."""
        return defaults.model_copy(update={field: getattr(self, field) for field in self.model_fields_set})


def _check_secret(value: str | None) -> str | None:
    if value is not None and (not value.startswith(("env:", "file:")) or value in ("env:", "file:")):
        # the value is not shown, since it may be the secret itself
        raise ValueError("is neither env:NAME nor file:PATH", "write where the secret is, never the secret itself")
    return value


def _check_file(value: str | None) -> str | None:
    if value is not None and (not value.startswith("file:") or value == "file:"):
        raise ValueError("is not file:PATH", "name a file of keys; `hierarchy key create` writes one")
    return value


def _check_network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a network ({error})", network_hint(value)) from None
    return value


def _check_host_pattern(value: str) -> str:
    if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", value):
        raise ValueError(f"{value!r} is not a host name", 'write a name alone, such as "llm.lab.example"')
    return value


SecretRef = Annotated[str | None, AfterValidator(_check_secret)]
KeyFileRef = Annotated[str | None, AfterValidator(_check_file)]
Network = Annotated[str, AfterValidator(_check_network)]
HostPattern = Annotated[str, AfterValidator(_check_host_pattern)]
PathList = Annotated[list[str], AfterValidator(check_entries)]


class SecuritySpec(Strict):
    """Who may join, send requests and operate. A node's own fields override those of `defaults`."""

    key: SecretRef = Field(
        default=None,
        description="`env:NAME` or `file:PATH` of the tree's key (`hierarchy token key`), or of this node's own key, "
        "derived from it; with it, a node accepts registrations from nodes that have a token",
    )
    accepted_key: SecretRef = Field(
        default=None,
        description="`env:NAME` or `file:PATH` of a second key, whose tokens and credentials are accepted too while "
        "the tree's key is replaced; `key` signs",
    )
    join_token: SecretRef = Field(
        default=None,
        description="`env:NAME` or `file:PATH` of the token that a node shows its parent when it first registers; "
        "default: the environment variable `HIERARCHY_JOIN_TOKEN`",
    )
    state_dir: str | None = Field(
        default=None,
        description="folder for what a node must remember: its credential, used tokens, revocations; default: "
        "`$STATE_DIRECTORY` (set by systemd), else `~/.local/state/hierarchy/NAME`, on macOS "
        "`~/Library/Application Support/hierarchy/NAME`",
    )
    allow: list[Network] = Field(
        default=[],
        description="networks in which registered children may be; default: anywhere, except where no child may be "
        "(docs/reference/security.md)",
    )
    allowed_hosts: list[HostPattern] = Field(
        default=[],
        description="names at which a node without `api_keys` is reached, such as `llm.lab.example` or "
        "`*.lab.example`; addresses, names without a dot, those of `listen` and of its URLs need no entry",
    )
    tokenless_workers: bool = Field(
        default=False,
        description="accept FastChat's and TinyChat's own workers, which have no tokens, if their address and URL are "
        "in `allow`",
    )
    api_keys: KeyFileRef = Field(
        default=None,
        description="`file:PATH` of the keys of clients, written by `hierarchy key create`; read again when it changes",
    )
    admin_keys: KeyFileRef = Field(
        default=None,
        description="`file:PATH` of the keys of operators: for `/admin/*`, `/tree`, `/route` and `/metrics`",
    )
    paths: PathList = Field(
        default=[],
        description="what clients may call whose key has no `paths` of its own, or who need no key: each `METHOD PATH` "
        "with `*` for any method or any end of a path, or `inference`; default: `inference` where keys are required, "
        "else all but what changes an engine",
    )
    cleartext: bool = Field(
        default=False,
        description="allow connections without TLS to and from other machines, in a network that is trusted",
    )
    insecure: bool = Field(
        default=False,
        description="start without keys on addresses that other machines can reach; implies `cleartext`; the log "
        "warns of it",
    )


class TlsSpec(Strict):
    """TLS 1.3 of a node, as a server and as a client of other nodes. All files are in PEM format."""

    cert: str | None = Field(
        default=None, description="file with this node's certificate and those between it and its CA"
    )
    key: str | None = Field(
        default=None, description="file with the certificate's private key, which other users must not be able to read"
    )
    ca: str | None = Field(
        default=None,
        description="file with the CAs that issue the certificates of other nodes; default: the system's",
    )
    require_client_cert: bool = Field(
        default=False,
        description="refuse clients and nodes that have no certificate from `ca`",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("`cert` and `key` go together", "name both files, or neither")
        if self.require_client_cert and not (self.cert and self.ca):
            raise ValueError("`require_client_cert` needs `cert`, `key` and `ca`", "name the three files")
        return self
