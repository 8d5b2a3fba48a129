"""The flags of the commands: those that several commands have, and those that configure a node.

Each type is one flag, for the signature of a command: `config: Config`. A flag that only one command has is defined
there. `node_flags` applies the flags of a node to its configuration.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from hierarchy.config.address import DEFAULT_PORT
from hierarchy.config.client_paths import check_entries
from hierarchy.errors import UsageError
from hierarchy.labels import parse
from hierarchy.security import secret
from hierarchy.security.secret import JOIN_TOKEN

ADMIN_KEY, API_KEY = secret.ADMIN_KEY, secret.API_KEY
NODE_URL = "HIERARCHY_URL"  #: environment variable with the URL of the node that commands call
LOCAL_NODE = f"http://localhost:{DEFAULT_PORT}"

_LENGTH = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# --- of commands that read a configuration or talk to a running node --------------------------------------------------

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a tree.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
AdminKeyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with the admin key.", show_default=f"${ADMIN_KEY}")
]
ApiKeyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with the API key.", show_default=f"${API_KEY}")
]
ClientTlsCa = Annotated[
    str | None,
    typer.Option(
        "--tls-ca",
        "--ca",
        metavar="FILE",
        help="For an https URL: PEM file with the CAs to trust.",
        show_default="the system's",
        rich_help_panel="TLS",
    ),
]
ClientTlsCert = Annotated[
    str | None,
    typer.Option(
        "--tls-cert",
        metavar="FILE",
        help="PEM file with a client certificate, for a node with `require_client_cert`.",
        rich_help_panel="TLS",
    ),
]
ClientTlsKey = Annotated[
    str | None,
    typer.Option("--tls-key", metavar="FILE", help="PEM file with its private key.", rich_help_panel="TLS"),
]
Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write it to this file, with mode 0600.", show_default="stdout")
]
ExitWithParent = Annotated[bool, typer.Option("--exit-with-parent", help="End when stdin ends (for supervisors).")]

# --- of `serve` and `up` ----------------------------------------------------------------------------------------------

LogFormatFlag = Annotated[
    str | None,
    typer.Option("--log-format", metavar="FORMAT", help="Format of the log: text or json.", show_default="CONFIG's"),
]
JoinTokenFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="File with the token to join the tree; - for stdin.", show_default=f"${JOIN_TOKEN}"
    ),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Start without keys on addresses that others can reach.")]
Cleartext = Annotated[bool, typer.Option("--cleartext", help="Allow connections to other machines without TLS.")]


def _without_config(metavar: str | None, help: str, *names: str, default: str | bool = True) -> Any:
    """A flag of `serve` for what a configuration file would contain."""
    panel = "Without CONFIG"
    return typer.Option(*names, metavar=metavar, help=help, show_default=default, rich_help_panel=panel)


Host = Annotated[str | None, _without_config("HOST", "Address to listen on.", default="localhost")]
Port = Annotated[int | None, _without_config("PORT", "Port to listen on; 0 for any.", default=str(DEFAULT_PORT))]
DispatchMethod = Annotated[
    str | None,
    _without_config(
        "POLICY", "How to choose a child: shortest_queue, p2c, round_robin, lottery, prefix.", default="shortest_queue"
    ),
]
Parent = Annotated[
    list[str] | None, _without_config("URL", "Parent to register with; repeat the flag for several parents.")
]
Engine = Annotated[
    list[str] | None,
    _without_config(
        "KIND=URL",
        "Engine below this node, or local=MODEL or simulated=MODEL to start one; repeat the flag for several.",
    ),
]
Advertise = Annotated[
    str | None, _without_config("URL", "URL at which the parent reaches this node.", default="http://HOST:PORT")
]
Link = Annotated[
    str | None,
    _without_config(
        "LINK",
        "Who dials the connections for requests: direct (the parent), reverse (this node) or auto.",
        default="direct",
    ),
]
Replica = Annotated[bool, _without_config(None, "Other instances have the same --node name.", "--replica")]
ReplicaUrl = Annotated[
    list[str] | None,
    _without_config(
        "URL", "With --replica: URL of another instance, to pass on used tokens; repeat the flag for several."
    ),
]
KeyFile = Annotated[
    str | None, _without_config("FILE", "File with the tree's key, or with this node's own (`hierarchy token key`).")
]
AcceptedKeyFile = Annotated[
    str | None, _without_config("FILE", "File with a second key that is accepted too, while the key is replaced.")
]
ApiKeys = Annotated[str | None, _without_config("FILE", "File with the keys of clients (`hierarchy key create`).")]
AdminKeys = Annotated[str | None, _without_config("FILE", "File with the keys of operators (`hierarchy key create`).")]
AdminListen = Annotated[str | None, _without_config("HOST:PORT", "Address for operators only.")]
Allow = Annotated[
    list[str] | None,
    _without_config("NETWORK", "Network in which children may be, such as 10.1.0.0/24; repeat the flag for several."),
]
AllowedHost = Annotated[
    list[str] | None,
    _without_config(
        "NAME", "Name at which a node without keys is reached, such as llm.lab.example; repeat it for several."
    ),
]
TokenlessWorkers = Annotated[
    bool,
    _without_config(None, "Accept FastChat's own workers, which have no token, from --allow.", "--tokenless-workers"),
]
StateDir = Annotated[
    str | None, _without_config("FOLDER", "Folder for credentials, used tokens and revocations that a node keeps.")
]
TlsCert = Annotated[str | None, _without_config("FILE", "PEM file with this node's certificate.")]
TlsKey = Annotated[str | None, _without_config("FILE", "PEM file with its private key.")]
TlsCa = Annotated[
    str | None,
    _without_config(
        "FILE", "PEM file with the CAs of other nodes' certificates.", "--tls-ca", "--ca", default="the system's"
    ),
]
RequireClientCert = Annotated[
    bool,
    _without_config(None, "Refuse connections without a certificate from --tls-ca.", "--require-client-cert"),
]


def split_paths(paths: str | None) -> list[str] | None:
    """The entries in `inference,POST /v1/batches`; None for None. Raises `UsageError` if one is not valid."""
    if paths is None:
        return None
    try:
        return check_entries([entry.strip() for entry in paths.split(",")])
    except ValueError as error:
        raise UsageError(f"--paths: {error.args[0]}; {error.args[1]}") from None


def split_models(models: str | None) -> list[str] | None:
    """The names in `a,b`; None for None, which means any model. Raises `UsageError` if there is no name."""
    if models is None:
        return None
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not names:
        raise UsageError("--models: contains no name; leave it out for any model")
    return names


def labels(flag: str, text: str | None, *, several: bool = False) -> dict[str, str] | None:
    """The labels in `region=eu,trust=own`; None for None. several: also `region=eu/us`. Raises `UsageError`."""
    if text is None:
        return None
    try:
        return parse(text, several=several)
    except ValueError as error:
        raise UsageError(f"{flag} {text}: {error.args[0]}; {error.args[1]}") from None


def seconds(flag: str, text: str) -> int:
    """The seconds in a length of time such as `30m`. Raises `UsageError`."""
    match = _LENGTH.fullmatch(text)
    if match is None:
        raise UsageError(f"{flag} {text}: not a length of time; write one such as 30m, 24h or 7d")
    return int(match[1]) * _UNIT_S[match[2]]


def moment(flag: str, text: str, now: datetime) -> datetime:
    """The moment that a date such as `2027-01-31`, or a length of time from now, means. Raises `UsageError`."""
    try:
        found = datetime.fromisoformat(text)
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
    except ValueError:
        if _LENGTH.fullmatch(text) is None:
            raise UsageError(f"{flag} {text}: neither a date nor a length of time; write 2027-01-31, or 90d") from None
        found = _later(flag, text, now)
    if found <= now:
        raise UsageError(f"{flag} {text}: is in the past; choose a later time")
    return found


def _later(flag: str, text: str, now: datetime) -> datetime:
    try:
        return (now + timedelta(seconds=seconds(flag, text))).replace(microsecond=0)
    except OverflowError:
        raise UsageError(f"{flag} {text}: is too far in the future; leave it out for a key without an end") from None
