"""The tree as a graph: whether it makes sense, and one node's own part of it.

load → build → validate → cut(name) → NodeConfig → node
flags            → single()         ↗
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import networkx as nx
from pydantic import ValidationError

from hierarchy.config.address import DEFAULT_PORT, Address, is_wildcard, parse_url, url_of
from hierarchy.config.models import (
    LAUNCHED_KINDS,
    ConfigError,
    EngineConfig,
    EngineKind,
    EngineSpec,
    LinkWish,
    LoadedTree,
    NodeConfig,
    PolicyName,
    Settings,
    TreeConfig,
)
from hierarchy.config.yaml import Finding, Problem, closest
from hierarchy.errors import UsageError
from hierarchy.topology.checks import check_all
from hierarchy.topology.reachability import check_reach, parse_reach


def build(tree: TreeConfig) -> nx.DiGraph:
    """A configuration as a graph with edges from parent to child, as far as the parents exist.

    Attributes of each of its nodes, which is all that the checks look at:

        kind        "node" or "engine"
        field       path of its entry in the file
        parents     the declared parents, existing or not; a replica has those of its original, and below a node that
                    has replicas they are parents too
        replica_of  of a node only: the declared name or None
        subnet      the declared subnet or None
        link        "direct", "reverse" or "auto"
        listen      (host, port) pairs of a node; () for an engine
        advertise   the declared `advertise` of a node or `url` of an engine, good or not; None if there is none
        registered  URLs one of which its parent dials
        urls        URLs at which it stands, which its own children dial
        models      names that an engine is declared to serve; () where only it knows
        engine, launched, model, speed   of an engine only; launched: this machine may start it

    An engine with the name of a node stands under "NAME (engine)", so that neither hides the other. The graph itself
    has `slice`, the node whose part of a tree it is; None for a whole tree.
    """
    graph = nx.DiGraph(slice=tree.slice)
    for name, node in tree.nodes.items():
        declared = node.model_dump(include={"replica_of", "subnet", "link", "advertise"})
        original = tree.nodes.get(node.replica_of) if node.replica_of else None
        declared["parents"] = _with_replicas(tree, (original or node).parents or node.parents)
        scheme = "https" if node.tls.cert or tree.defaults.tls.cert else "http"
        listened = [url_of(address, scheme) for address in node.listen if not is_wildcard(address[0])]
        graph.add_node(name, kind="node", field=("nodes", name), listen=node.listen, **declared)
        graph.nodes[name].update(_urls(node.advertise, listened))
    for name, engine in tree.engines.items():
        key = f"{name} (engine)" if name in tree.nodes else name
        declared = engine.model_dump(include={"subnet", "model", "speed"})
        declared["parents"] = _with_replicas(tree, engine.parents)
        graph.add_node(key, kind="engine", field=("engines", name), listen=(), link="direct", **declared)
        launched = engine.kind in LAUNCHED_KINDS
        graph.nodes[key].update(engine=engine.kind, launched=launched, advertise=engine.url, **_urls(engine.url, []))
        graph.nodes[key]["models"] = tuple(engine.models) or _declared_model(engine)
    graph.add_edges_from(
        (parent, name) for name, parents in graph.nodes(data="parents") for parent in parents if parent in tree.nodes
    )
    return graph


def _declared_model(engine: EngineSpec) -> tuple[str, ...]:
    if engine.model is None or engine.kind not in LAUNCHED_KINDS:
        return ()
    # a path of a GGUF file is served under the file's name
    return (Path(engine.model).stem if engine.model.endswith(".gguf") else engine.model,)


def _with_replicas(tree: TreeConfig, parents: Iterable[str]) -> tuple[str, ...]:
    """The parents, and the replicas of each."""
    return tuple(
        dict.fromkeys(
            name
            for parent in parents
            for name in (parent, *(k for k, n in tree.nodes.items() if n.replica_of == parent))
        )
    )


def _urls(advertise: str | None, listened: list[str]) -> dict[str, Any]:
    if advertise is None:
        return {"registered": tuple(listened), "urls": tuple(listened)}
    try:
        url = parse_url(advertise)[0]
    except ValueError:  # `checks.check_urls` tells it
        return {"registered": (), "urls": tuple(listened)}
    return {"registered": (url,), "urls": tuple(dict.fromkeys([url, *listened]))}


def depth(graph: nx.DiGraph) -> int:
    """Levels of nodes above the deepest engine (edges on the longest way down)."""
    return int(nx.dag_longest_path_length(graph))


def validate(loaded: LoadedTree) -> list[Problem]:
    """Everything that is wrong with a tree, in the order of the file; [] for a good one."""
    graph = build(loaded.config)
    reach, findings = parse_reach(loaded.config.subnets, loaded.config.reach)
    findings += [*check_all(graph), *check_reach(graph, reach), *_check_tree(loaded.config)]
    problems = {loaded.source.problem(*finding) for finding in findings}
    return sorted(problems, key=lambda problem: (problem.line, str(problem)))


def _check_tree(tree: TreeConfig) -> Iterator[Finding]:
    """What a graph does not hold: aliases, and whose part of a tree this is."""
    for name, targets in tree.aliases.items():
        for target in targets:
            if target.model in tree.aliases and target.model != name:
                yield ("aliases", name), f'"{target.model}" is an alias itself', "name the models that it stands for"
    if tree.slice is not None and tree.slice not in tree.nodes:
        yield ("slice",), f'no node "{tree.slice}"', closest(tree.slice, tree.nodes)


def may_dial(loaded: LoadedTree, source: str, target: str) -> bool | None:
    """Whether the machine of one node or engine may open a connection to another's, as `subnets` and `reach` say.

    None where the subnet of one of them is not known: a host name, loopback, or an address outside all subnets.

    Raises:
        UsageError: there is no node or engine of one of these names.
    """
    graph = build(loaded.config)
    for name in (source, target):
        if name not in graph:
            raise UsageError(f'{loaded.source.file}: no node or engine "{name}"; {closest(name, graph)}')
    reach, _ = parse_reach(loaded.config.subnets, loaded.config.reach)
    return reach.connects(graph.nodes[source], graph.nodes[target])


def cut(loaded: LoadedTree, name: str) -> NodeConfig:
    """One node's own configuration: what it listens on, whom it registers with, its engines and settings.

    Raises:
        UsageError: there is no node of that name.
        ConfigError: the tree has problems.
    """
    tree, graph = loaded.config, build(loaded.config)
    if name not in tree.nodes:
        raise UsageError(f'{loaded.source.file}: no node "{name}"; choose one of {", ".join(tree.nodes)}')
    if tree.slice not in (None, name):
        raise UsageError(f'{loaded.source.file} is the part of node "{tree.slice}"; run "{name}" from its own')
    problems = validate(loaded)
    if problems:
        raise ConfigError(problems)
    reach, _ = parse_reach(tree.subnets, tree.reach)
    node, at = tree.nodes[name], graph.nodes[name]
    above = [graph.nodes[parent] for parent in at["parents"]]
    uplinks = [reach.dialled(at, parent, parent["urls"]) for parent in above]
    advertise = [reach.dialled(parent, at, at["registered"]) for parent in above]
    engines = {key: spec for key, spec in tree.engines.items() if name in graph.nodes[key]["parents"]}
    replicated = node.replica_of or (name if any(one.replica_of == name for one in tree.nodes.values()) else None)
    settings = node.settings(tree.defaults)
    return NodeConfig(
        name=name,
        listen=node.listen,
        advertise=next((url for url in advertise if url), None) or at["registered"][0],
        admin=node.admin_listen or (),
        parents=tuple(url for url in uplinks if url),
        replica_of=replicated,
        link=node.link,
        proxy=node.proxy,
        children=tuple(key for key in tree.nodes if name in graph.nodes[key]["parents"]),
        engines=tuple(
            EngineConfig(
                name=key,
                simulated=spec.simulated,
                **spec.model_dump(include={"kind", "url", "model", "models", "speed", "api_key"}),
            )
            for key, spec in engines.items()
        ),
        aliases=tree.aliases,
        settings=settings,
    )


def single(
    *,
    name: str | None = None,
    host: str = "localhost",
    port: int = DEFAULT_PORT,
    advertise: str | None = None,
    dispatch: str = "shortest_queue",
    link: str = "direct",
    parents: Iterable[str] = (),
    engines: Iterable[str] = (),
    replica: bool = False,
) -> NodeConfig:
    """A node from the flags of a command line alone.

    Args:
        name: default: this machine's name and the port, so that two nodes under one parent differ.
        advertise: URL registered with the parents; needed where `host` means all interfaces.
        link: who dials the connections for requests: `direct` (the parents), `reverse` (this node) or `auto`.
        parents: URLs of nodes to register with.
        replica: other instances register under the same name.
        engines: `KIND=URL`, or `local=MODEL`, `simulated=MODEL` to start one here; they are named KIND-1, KIND-2 ...

    Raises:
        UsageError: naming the flag that is wrong.
    """
    uplinks = tuple(_flag_url("--parent", url) for url in parents)
    if dispatch not in get_args(PolicyName):
        raise UsageError(f"--dispatch-method {dispatch}: no such policy; {closest(dispatch, get_args(PolicyName))}")
    if link not in get_args(LinkWish):
        raise UsageError(f"--link {link}: {closest(link, get_args(LinkWish))}")
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: no port; write a number from 0 to 65535")
    if advertise is not None:
        advertise = _flag_url("--advertise", advertise)
    elif is_wildcard(host) and uplinks and link != "reverse":
        raise UsageError(f"--host {host}: parents cannot dial it; add --advertise http://ADDRESS:{port}")
    if replica and name is None:
        raise UsageError("--replica: the instances share a name; give it with --node")
    try:
        return NodeConfig(
            replica_of=name if replica else None,
            name=name or re.sub(r"[^A-Za-z0-9._-]", "-", f"{socket.gethostname()}-{port}").lstrip("._-"),
            listen=((host, port),),
            advertise=advertise or _own_url((host, port)),
            parents=uplinks,
            link=link,  # type: ignore[arg-type]  # checked above
            engines=_flag_engines(engines),
            settings=Settings.model_validate({"dispatch": dispatch}),
        )
    except ValidationError:
        raise UsageError(f"--name {name}: no name; write letters, digits, '.', '_' and '-'") from None


def _own_url(address: Address) -> str:
    """Where others may find a node that registers with nobody."""
    host, port = address
    return url_of((socket.gethostname() if is_wildcard(host) else host, port))


def _flag_url(flag: str, url: str) -> str:
    try:
        good, (host, _) = parse_url(url)
    except ValueError as error:
        raise UsageError(f"{flag} {'; '.join(error.args)}") from None
    if is_wildcard(host):
        raise UsageError(f"{flag} {url}: nobody can dial {host}; write the address at which it is reached")
    return good


def _flag_engines(flags: Iterable[str]) -> tuple[EngineConfig, ...]:
    count: Counter[str] = Counter()
    return tuple(_flag_engine(flag, count) for flag in flags)


def _flag_engine(flag: str, count: Counter[str]) -> EngineConfig:
    kind, separator, value = flag.partition("=")
    if not separator or not value:
        raise UsageError(f"--engine {flag}: no KIND=URL; write one such as vllm=http://127.0.0.1:8000")
    if kind not in get_args(EngineKind):
        raise UsageError(f'--engine {flag}: no kind of engine "{kind}"; {closest(kind, get_args(EngineKind))}')
    starts = kind in LAUNCHED_KINDS and "://" not in value
    place = {"model": value} if starts else {"url": _flag_url(f"--engine {kind}=", value)}
    count[kind] += 1
    return EngineConfig.model_validate({"name": f"{kind}-{count[kind]}", "kind": kind, **place})
