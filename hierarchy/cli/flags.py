"""The flags of `serve` and `up` that say who may join and who may ask."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from hierarchy.cli.client import ADMIN_KEY, API_KEY
from hierarchy.config.address import Address, parse_address
from hierarchy.config.blocks import SecuritySpec, TlsSpec
from hierarchy.config.models import NodeConfig
from hierarchy.errors import UsageError
from hierarchy.security.credential_store import JOIN_TOKEN
from hierarchy.security.secret import check_secret

AdminKeyFile = Annotated[Path | None, typer.Option(help=f"file with the admin key  [default: ${ADMIN_KEY}]")]
ApiKeyFile = Annotated[Path | None, typer.Option(help=f"file with the API key  [default: ${API_KEY}]")]
ClientTlsCa = Annotated[
    str | None, typer.Option("--tls-ca", help="PEM file of the CAs of an https node  [default: the system's]")
]
ClientTlsCert = Annotated[str | None, typer.Option("--tls-cert", help="PEM file of a client certificate")]
ClientTlsKey = Annotated[str | None, typer.Option("--tls-key", help="PEM file of its private key")]

Insecure = Annotated[bool, typer.Option("--insecure", help="start without keys where others can reach it")]
Cleartext = Annotated[bool, typer.Option("--cleartext", help="allow connections to other machines without TLS")]
JoinTokenFile = Annotated[
    str | None, typer.Option(help=f"file with the token to join with, - for stdin  [default: ${JOIN_TOKEN}]")
]
KeyFile = Annotated[str | None, typer.Option(help="without CONFIG: file with the tree's key, or this node's own")]
ApiKeys = Annotated[str | None, typer.Option(help="without CONFIG: file of clients' keys (hierarchy key create)")]
AdminKeys = Annotated[str | None, typer.Option(help="without CONFIG: file of operators' keys")]
AdminListen = Annotated[str | None, typer.Option(help="without CONFIG: host:port for operators alone")]
Allow = Annotated[list[str] | None, typer.Option(help="without CONFIG: network of registered children; again for more")]
Tokenless = Annotated[
    bool, typer.Option("--tokenless-workers", help="without CONFIG: take FastChat's own workers that stand in --allow")
]
StateDir = Annotated[str | None, typer.Option(help="without CONFIG: folder for what the node must remember")]
TlsCert = Annotated[str | None, typer.Option(help="without CONFIG: PEM file of this node's certificate")]
TlsKey = Annotated[str | None, typer.Option(help="without CONFIG: PEM file of its private key")]
TlsCa = Annotated[str | None, typer.Option(help="without CONFIG: PEM file of the CAs of other nodes")]
RequireClientCert = Annotated[
    bool, typer.Option("--require-client-cert", help="without CONFIG: refuse whoever has no certificate from --tls-ca")
]


@dataclass(frozen=True)
class Flags:
    """What was given. `security` and `tls` are fields of those blocks, as far as they were set."""

    join_token_file: str | None = None
    admin_listen: str | None = None
    security: Mapping[str, Any] = field(default_factory=dict)
    tls: Mapping[str, Any] = field(default_factory=dict)

    def given(self) -> list[str]:
        """The flags that belong into CONFIG, where there is one."""
        own = {"insecure", "cleartext"}
        names = [name for name, value in self.security.items() if value and name not in own]
        flags = {"key": "key-file"}
        names += ["admin_listen"] if self.admin_listen else []
        return [f"--{flags.get(name, name).replace('_', '-')}" for name in names] + [
            f"--{'' if name.startswith('require') else 'tls-'}{name.replace('_', '-')}"
            for name, value in self.tls.items()
            if value
        ]

    def environ(self) -> Mapping[str, str]:
        """The environment, with a token that was read from stdin."""
        if self.join_token_file != "-":
            return os.environ
        return {**os.environ, JOIN_TOKEN: check_secret(sys.stdin.readline(), "--join-token-file -")}

    def over(self, config: NodeConfig, *, advertised: bool = True) -> NodeConfig:
        """`config`, with what was given. advertised: its URL was said, and stays as it is. Raises `UsageError`."""
        security = {name: value for name, value in self.security.items() if value}
        if self.join_token_file is not None:
            stdin = self.join_token_file == "-"
            security["join_token"] = f"env:{JOIN_TOKEN}" if stdin else f"file:{self.join_token_file}"
        tls = {name: value for name, value in self.tls.items() if value}
        settings = config.settings
        try:
            update = {
                "security": SecuritySpec.model_validate(security).over(settings.security),
                "tls": TlsSpec.model_validate(tls).over(settings.tls),
            }
        except ValidationError as error:
            raise UsageError(_words(error)) from None
        config = config.model_copy(update={"settings": settings.model_copy(update=update)})
        if "cert" in tls and not advertised:
            config = config.model_copy(update={"advertise": config.advertise.replace("http:", "https:", 1)})
        if self.admin_listen:
            config = config.model_copy(update={"admin": (self._admin(self.admin_listen),)})
        return config

    def _admin(self, text: str) -> Address:
        try:
            return parse_address(text)
        except ValueError as error:
            raise UsageError(f"--admin-listen {'; '.join(error.args)}") from None

    def as_arguments(self) -> list[str]:
        """Those that hold for every node of a tree."""
        return [f"--{name}" for name in ("insecure", "cleartext") if self.security.get(name)]


def flags_of(
    insecure: bool = False,
    cleartext: bool = False,
    join_token_file: str | None = None,
    admin_listen: str | None = None,
    **others: Any,
) -> Flags:
    """From the values of the options above; `tls_cert` and so on, and `require_client_cert`, are TLS's."""
    flags = Flags(join_token_file, admin_listen, {"insecure": insecure, "cleartext": cleartext})
    tls = {name.removeprefix("tls_"): value for name, value in others.items() if name.startswith(("tls_", "require_"))}
    rest = {name: value for name, value in others.items() if not name.startswith(("tls_", "require_"))}
    for name in ("api_keys", "admin_keys", "key_file"):
        if path := rest.pop(name, None):
            rest[name.removesuffix("_file")] = f"file:{path}"
    return replace(flags, security={**flags.security, **rest}, tls=tls)


def _words(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    cause = first.get("ctx", {}).get("error")
    words = "; ".join(map(str, cause.args)) if cause is not None else first["msg"]
    return f"{where}: {words}" if where else words
