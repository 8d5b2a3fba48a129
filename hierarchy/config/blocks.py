"""Parts of the configuration: the base of all its models, and the blocks `security` and `tls`.

Secrets never stand in a configuration: it says where they are, `env:NAME` or `file:PATH`.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Refuses unknown keys. An empty value (`key:` with nothing behind it) means the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, data: Any) -> Any:
        if data is None:
            return {}
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}
        return data

    def over(self, below: Self) -> Self:
        """`below`, with what is set here."""
        return below.model_copy(update={field: getattr(self, field) for field in self.model_fields_set})


def _check_secret(value: str | None) -> str | None:
    if value is not None and (not value.startswith(("env:", "file:")) or value in ("env:", "file:")):
        # The value is not shown: it may be the secret itself.
        raise ValueError("does not say where the secret is", "write env:NAME or file:PATH, never the secret itself")
    return value


def _check_file(value: str | None) -> str | None:
    if value is not None and (not value.startswith("file:") or value == "file:"):
        raise ValueError("does not name a file of keys", "write file:PATH; `hierarchy key create` makes one")
    return value


def _check_network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is no network: {error}", 'write it as "10.1.0.0/24"') from None
    return value


SecretRef = Annotated[str | None, AfterValidator(_check_secret)]
KeyFileRef = Annotated[str | None, AfterValidator(_check_file)]
Network = Annotated[str, AfterValidator(_check_network)]


class SecuritySpec(Strict):
    """Who may join, who may ask, who may operate. A node's own fields go over those of `defaults`."""

    key: SecretRef = Field(
        default=None,
        description="`env:NAME` or `file:PATH` of the tree's key (`hierarchy token key`), or of this node's own, "
        "derived from it: with it a node takes registrations from nodes that have a token",
    )
    join_token: SecretRef = Field(
        default=None,
        description="`env:NAME` or `file:PATH` of the token that a node shows its parent at first contact; default: "
        "the environment's `HIERARCHY_JOIN_TOKEN`",
    )
    state_dir: str | None = Field(
        default=None,
        description="folder of what a node must remember: its credential, used tokens, revocations; default: "
        "`$STATE_DIRECTORY` (systemd's), else `~/.local/state/hierarchy/NAME`",
    )
    allow: list[Network] = Field(
        default=[],
        description="networks in which registered children may stand; without it they may stand anywhere but where "
        "nobody may (docs/reference/security.md)",
    )
    tokenless_workers: bool = Field(
        default=False,
        description="take in FastChat's and TinyChat's own workers, which have no tokens, if their address and URL lie "
        "in `allow`",
    )
    api_keys: KeyFileRef = Field(
        default=None,
        description="`file:PATH` of the keys of clients, made by `hierarchy key create`; read again when changed",
    )
    admin_keys: KeyFileRef = Field(
        default=None,
        description="`file:PATH` of the keys of operators: for `/admin/*`, `/tree`, `/route` and `/metrics`",
    )
    cleartext: bool = Field(
        default=False,
        description="allow connections without TLS to and from other machines, as in a network that is trusted",
    )
    insecure: bool = Field(
        default=False,
        description="start without keys on addresses that others can reach; implies `cleartext`; said in the log",
    )


class TlsSpec(Strict):
    """TLS 1.3 of a node, as a server and as a client of other nodes. All files are PEM."""

    cert: str | None = Field(
        default=None, description="file with this node's certificate, and those between it and its CA"
    )
    key: str | None = Field(
        default=None, description="file with the certificate's private key, not readable by everybody"
    )
    ca: str | None = Field(
        default=None,
        description="file with the CAs that other nodes' certificates must come from; default: the system's",
    )
    require_client_cert: bool = Field(
        default=False,
        description="refuse whoever has no certificate from `ca`: nodes show theirs, clients need one too",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("`cert` and `key` go together", "name both files, or neither")
        if self.require_client_cert and not (self.cert and self.ca):
            raise ValueError("`require_client_cert` needs `cert`, `key` and `ca`", "name the three files")
        return self
