"""The YAML of a whole tree, as pydantic models: every field with its unit, default and reason.

`load(path)` returns the tree and the line of each of its fields, or raises `ConfigError` with *all* problems, each with
its file, line and field. `topology` checks the tree as a whole: one root, no cycle, who can dial whom.
docs/reference/configuration.md shows the descriptions as tables; a test compares both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from hierarchy.config import simulated
from hierarchy.config.address import DEFAULT_PORT, Address, join_address, parse_address
from hierarchy.config.blocks import SecretRef, SecuritySpec, Strict, TlsSpec
from hierarchy.config.command import Command
from hierarchy.config.labels import EngineLabels, NodeLabels
from hierarchy.config.model_names import Models, Targets
from hierarchy.config.partial import understand
from hierarchy.config.prefer import Tiers
from hierarchy.config.speed import Speed
from hierarchy.config.yaml import MAPPING, FieldPath, Problem, Source, problem_of, read_yaml, shown
from hierarchy.errors import UsageError
from hierarchy.names import MAX_NAME, NODE_NAME
from hierarchy.runtime.memory import memory_bytes

EngineKind = Literal[
    "openai", "vllm", "sglang", "tgi", "lmdeploy", "ollama", "llamacpp", "fastchat", "local", "simulated"
]
RequestedLink = Literal["direct", "reverse", "auto"]
#: names of the policies in `balancing.policy.POLICIES`, which this room may not import
PolicyName = Literal["shortest_queue", "p2c", "lottery", "round_robin", "prefix"]
#: kinds that a node starts itself if they have no `url`
USUAL_LOAD_S, MAX_LOAD_S = 10.0, 3600.0  # as in `wire.status` and `wire.checks`, which this room may not import
LAUNCHED_KINDS = frozenset({"local", "simulated"})

HELD_SHARE = 8  # part of the memory for bodies; they are copied where they are translated, or their model is replaced
LEAST_HELD_BYTES = 64 * 1024 * 1024


class ConfigError(UsageError):
    """A configuration has `problems`; `str(error)` has one line for each, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(map(str, self.problems)))

    @property
    def lines(self) -> list[str]:
        """One line for each problem."""
        return [str(problem) for problem in self.problems]


class UnreadableConfigError(ConfigError):
    """The file could not be read at all, so its content is unknown."""


def _parse_listen(value: object) -> tuple[Address, ...]:
    entries = value if isinstance(value, list | tuple) else [value]
    if not entries:
        raise ValueError("an empty list: the node would listen nowhere", 'write "host:port"')
    return tuple(_parse_listen_entry(entry) for entry in entries)


def _parse_listen_entry(entry: object) -> Address:
    match entry:
        case (str(host), int(port)) if isinstance(entry, tuple):  # made in code, not read from a file
            return host, port
        case str() | int() if not isinstance(entry, bool):
            return parse_address(str(entry))
    raise ValueError(f"{shown(entry)} is not an address", 'write "host:port", or a list of them')


def _parse_parent(value: object) -> object:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        if value and all(isinstance(name, str) for name in value) and len(set(value)) == len(value):
            return tuple(value)
        raise ValueError(f"{value!r:.60} is not a list of nodes", "write a name, or [name, other]")
    raise ValueError(f"must be text, not {shown(value)}", "put it in quotes")


def _parse_pair(value: object) -> object:
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(end, str) for end in value):
        return tuple(value)
    raise ValueError(f"{value!r:.60} is not a pair of subnets", "write [from, to], each a name from `subnets`")


Name = Annotated[str, Field(pattern=rf"^{NODE_NAME}$", max_length=MAX_NAME)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Seconds = Positive
LoadSeconds = Annotated[float, Field(gt=0, le=MAX_LOAD_S, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(strict=True)]  # strict: `true` is not a number


Slots = Annotated[int, Field(strict=True, ge=1, le=65_536)]
_ADDRESS = {"type": ["string", "integer"]}
_SCHEMA = WithJsonSchema({"anyOf": [_ADDRESS, {"type": "array", "items": _ADDRESS, "minItems": 1}]})
_WRITTEN = PlainSerializer(lambda listen: listen and [join_address(address) for address in listen], when_used="json")
Listen = Annotated[tuple[Address, ...], BeforeValidator(_parse_listen), _WRITTEN, _SCHEMA]
OptionalListen = Annotated[tuple[Address, ...] | None, BeforeValidator(_parse_listen), _WRITTEN, _SCHEMA]
_NAMES = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]})
Parent = Annotated[str | tuple[str, ...], BeforeValidator(_parse_parent), _NAMES]
Pair = Annotated[tuple[str, str], BeforeValidator(_parse_pair)]


class ModelLimits(Strict):
    """Timeouts of one model, if they differ from those of its node."""

    first_byte_timeout_s: Seconds | None = Field(
        default=None, description="as in `defaults`; a large model's prefill takes longer"
    )
    idle_timeout_s: Seconds | None = Field(default=None, description="as in `defaults`")
    total_timeout_s: Seconds | None = Field(default=None, description="as in `defaults`")


class Settings(Strict):
    """What can be set in `defaults` for every node, and at any single node."""

    dispatch: PolicyName = Field(
        default="shortest_queue",
        description="how a child is chosen: `shortest_queue` (least load for its speed, as in FastChat), `p2c` (the "
        "better of two random children, for a dozen nodes that probe the same engines), `lottery` (random by "
        "speed), `round_robin` or `prefix` (least prompt to read: where the beginning of the prompt was sent before, "
        "unless too much waits there)",
    )
    address: Literal["worker", "self"] = Field(
        default="worker",
        description="what `/get_worker_address` returns: the child's address, as in FastChat (`worker`), or this "
        "node's own (`self`), for clients that cannot dial the child",
    )
    report_interval_s: Seconds = Field(
        default=1.0, description="time between two reports to the parent, ±20 % so that nodes do not report in step"
    )
    probe_interval_s: Seconds = Field(
        default=1.0,
        description="least time between two probes of an engine for its models and load, which is up to 4 s with "
        "more than 500 engines under the node; an engine that hangs is a suspect within that time and 2.5 s",
    )
    connect_timeout_s: Seconds = Field(
        default=3.0,
        description="for a TCP connection to a child: long enough for one lost SYN, no longer",
    )
    receive_timeout_s: Seconds = Field(
        default=60.0,
        description="from a request's first byte to its last, at whatever pace, so that no client holds a place by "
        "sending slowly",
    )
    hold_s: Annotated[float, Field(ge=0, le=14, strict=True)] = Field(
        default=10.0,
        description="how long a request is held for a model that was available up to 30 s ago, or may not be known "
        "yet; then it gets 503 with `Retry-After`. 0: at once. At most 14, since a stream's client gets its first "
        "comment after 15 s",
    )
    first_byte_timeout_s: Seconds = Field(
        default=600.0,
        description="from sending a request to the first byte of the response's body: time in a queue, and the "
        "prefill of a long prompt",
    )
    idle_timeout_s: Seconds = Field(
        default=120.0, description="between two reads of one response; an engine that is silent for so long hangs"
    )
    total_timeout_s: Seconds | None = Field(
        default=None,
        description="from a request's arrival to its response's end, retries included; the time left is passed down "
        "with the request. Without it, a stream may last as long as data arrives",
    )
    models: dict[str, ModelLimits] = Field(
        default_factory=dict, description="model: its own first-byte, idle and total timeouts"
    )
    remember_s: Seconds = Field(
        default=600.0,
        description="how long a child that left is shown as `gone`, and how long names, metrics and whatever else is "
        "known of a child or a model are kept after it went",
    )
    keep_alive_s: Seconds = Field(
        default=75.0, description="how long an idle client connection is kept; above the usual 60 s of proxies"
    )
    grace_s: Seconds = Field(
        default=30.0,
        description="how long running streams may continue after SIGTERM; as long as Kubernetes waits before it kills",
    )
    max_head_bytes: Count = Field(
        default=32 * 1024, ge=1024, description="a larger request head gets 431; the same as nginx's largest"
    )
    max_head_fields: Count = Field(
        default=100, ge=8, description="more header fields get 431; the same as Apache's limit"
    )
    max_body_bytes: Count = Field(
        default=32 * 1024 * 1024,
        ge=1024,
        description="a larger request body gets 413; bodies are held in memory, and images are large",
    )
    max_held_bytes: Count | None = Field(
        default=None,
        ge=1024 * 1024,
        description="bytes of request bodies, and of responses that clients do not read, that are held in memory, all "
        "together; beyond it requests get 503, and 429 if one API key holds as much as is free; default: an eighth of "
        "the memory of the machine or container, at least 64 MiB",
    )
    max_connections_per_address: Count | None = Field(
        default=None,
        ge=1,
        description="connections of clients from one IP address (of IPv6, one /64 network); default: as many as are "
        "free, so that one address alone may have half of what the limit of open files allows",
    )
    index_memory: Count = Field(
        default=128 * 1024 * 1024,
        ge=1024 * 1024,
        description="bytes that the policy `prefix` may take to remember which child was sent which prompt; about 20 "
        "for each digest, and 1,000 digests for each engine are enough",
    )
    share_prefixes: bool = Field(
        default=True,
        description="at an entry node, whether its callers share what engines have in their caches; `false`: prompts "
        "of different API keys never match, and the body's `cache_salt` is set, by which vLLM and SGLang keep them "
        "apart, too; needs `api_keys`",
    )
    spill_after_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False, strict=True)] = Field(
        default=2.0,
        description="with `prefer`: by how many seconds the expected wait at the preferred children may be longer than "
        "at the next ones, before requests go there. 0: as soon as it is shorter there",
    )
    max_speed: Positive | None = Field(
        default=None,
        description="a child that reports more is refused, since it would attract every request; default: of what a "
        "registered child reports, no more counts than ten times the median of the other children",
    )
    access_log: bool = Field(default=False, description="one log line per request; costs CPU on the data path")
    log_format: Literal["text", "json"] = Field(
        default="text", description="`text` for a person, `json` for one JSON object per line"
    )
    security: SecuritySpec = Field(default=SecuritySpec(), description="who may join, send requests and operate")
    tls: TlsSpec = Field(default=TlsSpec(), description="certificates for connections to and from other machines")

    @property
    def held_bytes(self) -> int:
        """`max_held_bytes`, or its default on this machine."""
        return self.max_held_bytes or max(LEAST_HELD_BYTES, memory_bytes() // HELD_SHARE)


class NodeSpec(Settings):
    """One entry of `nodes`. Every field of `defaults` may be set here too, for this node alone."""

    parent: Parent | None = Field(
        default=None,
        description="name of the node above, or a list of them; the root and its replicas have none",
    )
    replica_of: str | None = Field(
        default=None,
        description="name of the node of which this is another instance: it has the same parents and children and "
        "registers under that name, so that either may fail",
    )
    listen: Listen = Field(
        default=(("localhost", DEFAULT_PORT),),
        description='`"host:port"`, `"[ipv6]:port"` or a list of them; a host alone gets port 21001, as FastChat\'s '
        "controller",
    )
    admin_listen: OptionalListen = Field(
        default=None,
        description="address as in `listen`; then `/admin/*`, `/tree`, `/route` and `/metrics` are served only there; "
        "default: with everything else",
    )
    advertise: str | None = Field(
        default=None,
        description="URL to register with the parent, required if `listen` is 0.0.0.0; default: http:// (https:// "
        "with `tls.cert`) and the first `listen` address (with `subnets`: the first that the parent may dial)",
    )
    link: RequestedLink = Field(
        default="direct",
        description="who dials the connections for requests: the parent (`direct`), this node because the parent "
        "cannot (`reverse`), or what the parent finds to work when this node registers (`auto`)",
    )
    proxy: str = Field(
        default="env",
        description="HTTP proxy on the way to the parent: `http://host:port`, `none`, or `env`: with `link: reverse` "
        "or `auto` the one in `https_proxy`, `http_proxy` and `no_proxy`, else none",
    )
    subnet: str | None = Field(
        default=None, description="name from `subnets`; default: those that contain its IP addresses"
    )
    prefer: Tiers = Field(
        default=(),
        description="names of its children, the preferred first; a list in the list for those that are equal. The next "
        "ones get requests when the wait is longer by `spill_after_s`, or none is usable; children that are not named "
        "come last",
    )
    labels: NodeLabels = Field(
        default_factory=dict,
        description="`{region: eu, trust: own}`: what holds for this node and all below it, unless a node or engine "
        "further down has another value; requests may require it. `eu/us`: what is below has one or the other, and "
        "reports which",
    )

    @property
    def parents(self) -> tuple[str, ...]:
        """The names in `parent`."""
        return _names(self.parent)

    def settings(self, defaults: Settings) -> Settings:
        """The settings of this node: its own, and `defaults` for all others."""
        own = self.model_fields_set & Settings.model_fields.keys()
        set_here = {field: getattr(self, field) for field in own}
        blocks = {field: value.over(getattr(defaults, field)) for field, value in set_here.items() if _is_block(value)}
        return defaults.model_copy(update=set_here | blocks)


def _is_block(value: object) -> bool:
    return isinstance(value, Strict)


def _names(parent: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if parent is None else (parent,) if isinstance(parent, str) else parent


class SimulatedSpec(Strict):
    """Rates of a `kind: simulated` engine."""

    prefill_tokens_per_s: Positive = Field(
        default=simulated.PREFILL_TOKENS_PER_S, description="prompt tokens read per second, by all streams together"
    )
    decode_tokens_per_s: Positive = Field(
        default=simulated.DECODE_TOKENS_PER_S, description="tokens written per second, by each stream"
    )
    slots: Count = Field(default=simulated.SLOTS, ge=1, description="streams at once; more wait in a queue")
    cache_tokens: Count = Field(
        default=simulated.CACHE_TOKENS,
        ge=0,
        description="tokens of prompts that it keeps in a prefix cache, and need not read again; 0: it has none",
    )


class EngineSpec(Strict):
    """One entry of `engines`."""

    parent: Parent = Field(description="name of the node that routes to it, or a list of them")
    kind: EngineKind = Field(
        description="what it is, which decides how its models and load are read: `openai` (any server of that API), "
        "`vllm`, `sglang`, `tgi`, `lmdeploy`, `ollama`, `llamacpp`, `fastchat` (a worker), `local` (a "
        "model on this machine's CPU) or `simulated`"
    )
    url: str | None = Field(
        default=None,
        description="`http(s)://host:port`; without it, the node starts a `local` or `simulated` engine itself",
    )
    model: str | None = Field(
        default=None,
        description="`local`: name of a known model, or path of a GGUF file; `simulated`: the name that it reports; "
        "other kinds report their own models",
    )
    models: Models = Field(
        default_factory=dict,
        description="which of its models are served here: a list of names, or `{served-name: engine's-name}` to "
        "rename them; default: all",
    )
    speed: Speed = Field(
        default=1.0,
        description="capacity weight: an engine of speed 2 gets twice the requests of one of speed 1, which reads "
        "8,000 tokens/s and writes 50 for each stream; `measured`: as its requests show, from 1 or "
        "`{measured: NUMBER}` on (see [Measured speed](#measured-speed))",
    )
    slots: Slots | None = Field(
        default=None,
        description="requests that it runs at once, so that a free slot comes first; default: as the engine reports, "
        "or as it is seen to run (see [Slots](#slots))",
    )
    subnet: str | None = Field(
        default=None, description="name from `subnets`; default: the one that contains its IP address"
    )
    api_key: SecretRef = Field(
        default=None,
        description="`env:NAME` or `file:PATH` of the key that the engine itself requires; sent to it as "
        "`authorization: Bearer`",
    )
    labels: EngineLabels = Field(
        default_factory=dict,
        description="`{region: eu, trust: own}`: requests may require them; for a label that is not here, that of "
        "its node holds",
    )
    command: Command | None = Field(
        default=None,
        description="what starts it, as a list of words, without a shell: run by its node when a request needs it and "
        "nothing listens at `url`; needs `url` and `models`; it ends with the node",
    )
    wake: bool = Field(
        default=True,
        description="whether a request for its model may wake it up where no other engine has the model loaded: by "
        "`POST /wake_up` (a vLLM that sleeps at level 1), or by `command`",
    )
    load_s: LoadSeconds = Field(
        default=USUAL_LOAD_S,
        description="how long it takes to load a model that it does not have in memory, to wake up or to start, until "
        "that was measured",
    )
    simulated: SimulatedSpec = Field(default=SimulatedSpec(), description="rates of a `simulated` engine")

    @property
    def parents(self) -> tuple[str, ...]:
        """The names in `parent`."""
        return _names(self.parent)


def declared_models(engine: EngineSpec | EngineConfig) -> list[str]:
    """The names of the models that an engine serves as far as the configuration says so, else none."""
    if engine.models:
        return list(engine.models)
    return [engine.model] if engine.model is not None and engine.kind == "simulated" else []


class TreeConfig(Strict):
    """The whole file."""

    version: Literal[1] = Field(description="version of this format: 1")
    subnets: dict[Name, str] = Field(
        default_factory=dict, description="name: CIDR; lets the check prove who can reach whom"
    )
    reach: list[Pair] = Field(
        default_factory=list,
        description="[from, to] pairs: which subnet may dial which other, as the firewall allows it",
    )
    defaults: Settings = Field(default=Settings(), description="settings of every node that does not set its own")
    nodes: dict[Name, NodeSpec] = Field(description="name: node (a controller)")
    engines: dict[Name, EngineSpec] = Field(default_factory=dict, description="name: engine (an inference server)")
    aliases: dict[str, Targets] = Field(
        default_factory=dict,
        description="name: models that it stands for, the preferred one first; `{model, weight}` gives a model a "
        "share of the requests in percent",
    )
    slice: str | None = Field(
        default=None,
        description="written by `hierarchy slice`: this file is the part of a tree that the node of this name needs, "
        "with its parent and the nodes right below it",
    )


class EngineConfig(Strict):
    """One engine of a node; the fields are those of `EngineSpec`."""

    name: Name
    kind: EngineKind
    url: str | None = None
    model: str | None = None
    models: Models = Field(default_factory=dict)
    speed: Speed = 1.0
    slots: Slots | None = None
    api_key: SecretRef = None
    command: Command | None = None
    wake: bool = True
    load_s: LoadSeconds = USUAL_LOAD_S
    simulated: SimulatedSpec = SimulatedSpec()


class NodeConfig(Strict):
    """What one daemon needs to know; made by `topology.node_config`, from a tree or from flags."""

    name: Name
    #: addresses to listen on
    listen: tuple[Address, ...] = (("localhost", DEFAULT_PORT),)
    #: URL to register with the parents
    advertise: str
    #: the URLs at which others reach it, as far as the file says
    urls: tuple[str, ...] = ()
    #: the only addresses that serve the paths of operators; (): those of `listen`
    admin: tuple[Address, ...] = ()
    #: URLs of the nodes to register with
    parents: tuple[str, ...] = ()
    #: who dials the connections for requests
    link: RequestedLink = "direct"
    #: HTTP proxy on the way to the parents, as in the file
    proxy: str = "env"
    #: names of the nodes right below, as the file declares them
    children: tuple[str, ...] = ()
    #: the name under which all replicas register, which may be its own; None if there are no others
    replica_of: Name | None = None
    #: URLs of the other replicas, if the file declares them
    replicas: tuple[str, ...] = ()
    #: the engines right below
    engines: tuple[EngineConfig, ...] = ()
    #: names of children, tier by tier, the preferred ones first
    prefer: tuple[tuple[str, ...], ...] = ()
    #: names of the models that the file declares for engines further below
    models_below: tuple[str, ...] = ()
    #: labels of the engines, and of the nodes in `children` by the name under which they register
    labels: dict[Name, dict[str, str]] = Field(default_factory=dict)
    #: alias -> models that it stands for
    aliases: dict[str, Targets] = Field(default_factory=dict)
    #: its own settings, and the defaults of the tree for all others
    settings: Settings = Settings()


@dataclass(frozen=True)
class LoadedTree:
    """A tree with the file that it came from, and the line of each of its fields."""

    config: TreeConfig
    source: Source
    #: what is wrong in the file's syntax, keys, types and values
    problems: tuple[Problem, ...] = ()
    #: the fields that are wrong, and that `config` does not have as written
    wrong: frozenset[FieldPath] = frozenset()


def load(path: Path) -> LoadedTree:
    """Read the YAML of a tree and check it field by field.

    Raises:
        UnreadableConfigError: no such file, a directory, no permission, or not UTF-8.
        ConfigError: with everything that is wrong in its syntax, keys, types and values.
    """
    loaded = read(path)
    if loaded.problems:
        raise ConfigError(loaded.problems)
    return loaded


def read(path: Path) -> LoadedTree:
    """Like `load`, but a file with wrong fields is returned without them, so that the rest can be checked too.

    Raises:
        UnreadableConfigError: no such file, a directory, no permission, or not UTF-8.
        ConfigError: nothing of it can be understood as a tree.
    """
    data, source, problems = read_yaml(_read(path), str(path))
    if data is None and not problems:
        problems = [source.problem((), "is empty", "start it with `version: 1` and `nodes:`", 1)]
    if not isinstance(data, dict):
        raise ConfigError(problems or [source.problem((), f"contains {shown(data)}, not a mapping", MAPPING, 1)])
    nodes = data.get("nodes")
    parent = next((name for name in nodes if isinstance(name, str)), "root") if isinstance(nodes, dict) else "root"
    fillers: dict[FieldPath, object] = {
        ("version",): 1,
        ("engines", "*", "kind"): "openai",
        ("engines", "*", "parent"): parent,
    }
    found = understand(TreeConfig, data, fillers)
    known = {problem.field for problem in problems}
    invalid = [problem_of(source, details, TreeConfig) for details in found.errors]
    problems += [problem for problem in invalid if problem.field not in known]
    if found.model is None:
        raise ConfigError(problems)
    wrong = found.wrong | {tuple(field.split(".")) for field in known}
    return LoadedTree(found.model, source, tuple(problems), wrong)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        message, hint = "no such file", "check the path"
    except IsADirectoryError:
        message, hint = "is a directory", "name a YAML file in it"
    except OSError as error:
        message, hint = f"cannot be read ({error.strerror})", "check its permissions"
    except UnicodeDecodeError as error:
        message, hint = f"is not UTF-8 (byte {error.start})", "save it as UTF-8"
    raise UnreadableConfigError([Problem(str(path), 0, "", message, hint)])
