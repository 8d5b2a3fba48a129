"""The configuration of one node: its part of a declared tree, or made from the flags of a command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import get_args

from pydantic import ValidationError

from hierarchy.config.address import DEFAULT_PORT, is_wildcard, parse_url, url_of
from hierarchy.config.models import (
    LAUNCHED_KINDS,
    EngineConfig,
    EngineKind,
    EngineSpec,
    NodeConfig,
    PolicyName,
    RequestedLink,
    Settings,
    TreeConfig,
    declared_models,
)
from hierarchy.config.yaml import closest
from hierarchy.errors import UsageError
from hierarchy.names import as_node_name
from hierarchy.topology.declared import DeclaredTree
from hierarchy.topology.labels import labels_of_children


def from_tree(tree: DeclaredTree, name: str) -> NodeConfig:
    """What the node `name` needs to know: where it listens, its parents' URLs, its children, engines and settings.

    Raises:
        UsageError: there is no node of that name, or the file is a slice for another node.
        ConfigError: the tree has problems.
    """
    config, file = tree.config, tree.source.file
    if name not in config.nodes:
        raise UsageError(f'{file}: no node "{name}"; choose one of {", ".join(config.nodes)}')
    if config.slice not in (None, name):
        raise UsageError(f'{file} is the slice for node "{config.slice}"; run "{name}" from its own file')
    tree.require_valid()
    return part_of(tree, name)


def part_of(tree: DeclaredTree, name: str) -> NodeConfig:
    """Like `from_tree`, of a tree that may have problems: what follows from them is missing or wrong."""
    config, graph = tree.config, tree.graph
    spec, member = config.nodes[name], graph.members[name]
    parents = [graph.nodes[parent] for parent in member.parents if parent in graph.nodes]
    dialled = [tree.reach.choose_url(member, parent, parent.urls) for parent in parents]
    dialled_by = [tree.reach.choose_url(parent, member, member.urls_for_parent) for parent in parents]
    children = [key for key, other in graph.members.items() if name in other.parents]
    return NodeConfig(
        name=name,
        listen=spec.listen,
        advertise=next(url for url in (*dialled_by, *member.urls_for_parent, "") if url is not None),
        urls=member.urls,
        admin=spec.admin_listen or (),
        parents=tuple(url for url in dialled if url),
        replica_of=_replicated_name(config, name),
        replicas=tuple(url for _, url in replica_urls(tree, name) if url),
        link=spec.link,
        proxy=spec.proxy,
        children=tuple(key for key in children if key in config.nodes),
        engines=tuple(_engine(key, config.engines[key]) for key in children if key in config.engines),
        prefer=spec.prefer,
        models_below=_models_below(tree, name),
        labels=labels_of_children(
            config,
            name,
            [key for key in children if key in config.nodes],
            [key for key in children if key in config.engines],
        ),
        aliases=config.aliases,
        settings=spec.settings(config.defaults),
    )


def _models_below(tree: DeclaredTree, name: str) -> tuple[str, ...]:
    """Names of the models that the file declares for engines below a node's children."""
    below: set[str] = set()
    found = {name}
    while found:
        below |= found
        found = {key for key, member in tree.graph.members.items() if below.intersection(member.parents)} - below
    far = [spec for key, spec in tree.config.engines.items() if key in below and name not in spec.parents]
    return tuple(sorted({model for spec in far for model in declared_models(spec)}))


def _replicated_name(config: TreeConfig, name: str) -> str | None:
    """The name that a node shares with its replicas; None if it has none."""
    has_replicas = any(other.replica_of == name for other in config.nodes.values())
    return config.nodes[name].replica_of or (name if has_replicas else None)


def replica_urls(tree: DeclaredTree, name: str) -> Iterator[tuple[str, str | None]]:
    """The other replicas of a node, each with the URL at which this one dials it; None if it may not dial it."""
    shared = _replicated_name(tree.config, name)
    if shared is None:
        return
    member = tree.graph.members[name]
    for other in tree.config.nodes:
        if other != name and _replicated_name(tree.config, other) == shared:
            replica = tree.graph.members[other]
            yield other, tree.reach.choose_url(member, replica, replica.urls)


def _engine(name: str, spec: EngineSpec) -> EngineConfig:
    shared = spec.model_dump(
        include={"kind", "url", "model", "models", "speed", "slots", "api_key", "command", "wake", "load_s"}
    )
    return EngineConfig(name=name, simulated=spec.simulated, **shared)


def from_flags(
    *,
    hostname: str,
    name: str | None = None,
    host: str = "localhost",
    port: int = DEFAULT_PORT,
    advertise: str | None = None,
    dispatch: str = "shortest_queue",
    link: str = "direct",
    parents: Iterable[str] = (),
    engines: Iterable[str] = (),
    replica: bool = False,
    replica_urls: Iterable[str] = (),
) -> NodeConfig:
    """A node without a configuration file.

    Args:
        hostname: the name of this machine.
        name: default: the machine's name and the port, so that two nodes below one parent differ.
        host: address to listen on.
        advertise: URL to register with the parents; required if `host` means all interfaces.
        link: who dials the connections for requests: `direct` (the parents), `reverse` (this node) or `auto`.
        parents: URLs of the nodes to register with.
        engines: `KIND=URL`, or `local=MODEL` or `simulated=MODEL` to start one here; they are named KIND-1, KIND-2 ...
        replica: other instances register under the same name.
        replica_urls: URLs of these instances, if this node can dial them.

    Raises:
        UsageError: names the flag that is wrong.
    """
    parent_urls = tuple(_flag_url("--parent", url) for url in parents)
    if dispatch not in get_args(PolicyName):
        raise UsageError(f"--dispatch-method {dispatch}: no such policy; {closest(dispatch, get_args(PolicyName))}")
    if link not in get_args(RequestedLink):
        raise UsageError(f"--link {link}: {closest(link, get_args(RequestedLink))}")
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: not a port; write a number from 0 to 65535")
    if advertise is not None:
        advertise = _flag_url("--advertise", advertise)
    elif is_wildcard(host) and parent_urls and link != "reverse":
        raise UsageError(f"--host {host}: parents cannot dial it; add --advertise http://ADDRESS:{port}")
    if replica and name is None:
        raise UsageError("--replica: the instances share a name; give it with --node")
    others = tuple(_flag_url("--replica-url", url) for url in replica_urls)
    if others and not replica:
        raise UsageError("--replica-url: this node has no other instances; add --replica")
    try:
        return NodeConfig(
            replica_of=name if replica else None,
            replicas=others,
            name=name or as_node_name(f"{hostname}-{port}"),
            listen=((host, port),),
            advertise=advertise or url_of((hostname if is_wildcard(host) else host, port)),
            parents=parent_urls,
            link=link,  # type: ignore[arg-type]  # checked above
            engines=_flag_engines(engines),
            settings=Settings.model_validate({"dispatch": dispatch}),
        )
    except ValidationError:
        raise UsageError(f"--node {name}: not a valid name; write letters, digits, '.', '_' and '-'") from None


def _flag_url(flag: str, url: str) -> str:
    try:
        valid, (host, _) = parse_url(url)
    except ValueError as error:
        raise UsageError(f"{flag} {'; '.join(error.args)}") from None
    if is_wildcard(host):
        raise UsageError(f"{flag} {url}: {host} is not an address to dial; write the one at which it is reached")
    return valid


def _flag_engines(flags: Iterable[str]) -> tuple[EngineConfig, ...]:
    count: Counter[str] = Counter()
    return tuple(_flag_engine(flag, count) for flag in flags)


def _flag_engine(flag: str, count: Counter[str]) -> EngineConfig:
    kind, separator, value = flag.partition("=")
    if not separator or not value:
        raise UsageError(f"--engine {flag}: not KIND=URL; write one such as vllm=http://127.0.0.1:8000")
    if kind not in get_args(EngineKind):
        raise UsageError(f'--engine {flag}: unknown kind of engine "{kind}"; {closest(kind, get_args(EngineKind))}')
    starts = kind in LAUNCHED_KINDS and "://" not in value
    place = {"model": value} if starts else {"url": _flag_url(f"--engine {kind}=", value)}
    count[kind] += 1
    return EngineConfig.model_validate({"name": f"{kind}-{count[kind]}", "kind": kind, **place})
