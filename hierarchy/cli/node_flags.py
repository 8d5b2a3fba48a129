"""The flags that configure a node: their values, applied to its configuration."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from hierarchy.config.address import DEFAULT_PORT, Address, parse_address
from hierarchy.config.blocks import SecuritySpec, TlsSpec
from hierarchy.config.models import NodeConfig
from hierarchy.errors import UsageError
from hierarchy.runtime.logs import LogFormat
from hierarchy.security.secret import JOIN_TOKEN, check_secret
from hierarchy.topology import node_config

#: flags that may be given together with CONFIG; they override it. All others are for a node without CONFIG.
_OVERRIDES = ("log_format", "join_token_file", "insecure", "cleartext")


@dataclass(frozen=True)
class NodeFlags:
    """Values of the flags that configure a node. Each field has the name of its flag."""

    log_format: str | None = None
    join_token_file: str | None = None  #: `-` for stdin
    insecure: bool = False
    cleartext: bool = False
    host: str | None = None
    port: int | None = None
    dispatch_method: str | None = None
    parent: list[str] | None = None
    engine: list[str] | None = None
    advertise: str | None = None
    link: str | None = None
    replica: bool = False
    replica_url: list[str] | None = None
    key_file: str | None = None
    accepted_key_file: str | None = None
    api_keys: str | None = None
    admin_keys: str | None = None
    admin_listen: str | None = None
    allow: list[str] | None = None
    allowed_host: list[str] | None = None
    tokenless_workers: bool = False
    state_dir: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_ca: str | None = None
    require_client_cert: bool = False

    def refuse_with_config(self, config: Path) -> None:
        """Raise a `UsageError` if a flag was given that is only for a node without the configuration file `config`."""
        replacing = [field for field in fields(self) if field.name not in _OVERRIDES]
        if given := [_flag(field.name) for field in replacing if getattr(self, field.name) != field.default]:
            raise UsageError(f"{', '.join(given)}: not together with CONFIG; write it into {config}")

    def as_arguments(self) -> list[str]:
        """The flags of `up`, as arguments of `serve` for each node."""
        return [_flag(name) for name in ("insecure", "cleartext") if getattr(self, name)]

    def environ(self) -> Mapping[str, str]:
        """The environment, plus the join token if the flags say that it comes from stdin. Raises `UsageError`."""
        if self.join_token_file != "-":
            return os.environ
        return {**os.environ, JOIN_TOKEN: check_secret(sys.stdin.readline(), "--join-token-file -")}

    def config(self, name: str | None) -> NodeConfig:
        """The configuration of the node `name` from these flags alone. Raises `UsageError`."""
        config = node_config.from_flags(
            hostname=socket.gethostname(),
            name=name,
            host=self.host or "localhost",
            port=DEFAULT_PORT if self.port is None else self.port,
            advertise=self.advertise,
            dispatch=self.dispatch_method or "shortest_queue",
            link=self.link or "direct",
            parents=self.parent or (),
            engines=self.engine or (),
            replica=self.replica,
            replica_urls=self.replica_url or (),
        )
        config = self.over(config)
        if self.tls_cert and self.advertise is None:
            return config.model_copy(update={"advertise": config.advertise.replace("http:", "https:", 1)})
        return config

    def over(self, config: NodeConfig) -> NodeConfig:
        """`config` with the settings of these flags instead of its own. Raises `UsageError`."""
        settings = config.settings
        try:
            security = SecuritySpec.model_validate(_given(self._security())).over(settings.security)
            tls = TlsSpec.model_validate(_given(self._tls())).over(settings.tls)
        except ValidationError as error:
            raise UsageError(_message(error)) from None
        update: dict[str, Any] = {"security": security, "tls": tls}
        if self.log_format is not None:
            update["log_format"] = _check_log_format(self.log_format)
        config = config.model_copy(update={"settings": settings.model_copy(update=update)})
        if self.admin_listen:
            config = config.model_copy(update={"admin": (_check_admin_listen(self.admin_listen),)})
        return config

    def _security(self) -> dict[str, Any]:
        return {
            "key": _file_ref(self.key_file),
            "accepted_key": _file_ref(self.accepted_key_file),
            "join_token": f"env:{JOIN_TOKEN}" if self.join_token_file == "-" else _file_ref(self.join_token_file),
            "api_keys": _file_ref(self.api_keys),
            "admin_keys": _file_ref(self.admin_keys),
            "allow": self.allow,
            "allowed_hosts": self.allowed_host,
            "tokenless_workers": self.tokenless_workers,
            "state_dir": self.state_dir,
            "insecure": self.insecure,
            "cleartext": self.cleartext,
        }

    def _tls(self) -> dict[str, Any]:
        return {
            "cert": self.tls_cert,
            "key": self.tls_key,
            "ca": self.tls_ca,
            "require_client_cert": self.require_client_cert,
        }


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _file_ref(path: str | None) -> str | None:
    return f"file:{path}" if path else None


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """The values that were given: a model's `over` leaves all others as they are."""
    return {name: value for name, value in values.items() if value}


def _check_log_format(name: str) -> str:
    if name not in get_args(LogFormat):
        raise UsageError(f"--log-format {name}: no such format; choose text or json")
    return name


def _check_admin_listen(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise UsageError(f"--admin-listen {'; '.join(error.args)}") from None


def _message(error: ValidationError) -> str:
    """Pydantic's first error as one line."""
    first = error.errors(include_url=False)[0]
    where = " ".join(_flag(str(name)) for name in first["loc"][:1])
    cause = first.get("ctx", {}).get("error")
    message = "; ".join(map(str, cause.args)) if cause is not None else first["msg"]
    return f"{where}: {message}" if where else message
