"""What can be wrong with a tree's shape, names and addresses, told from its graph alone (see `topology.build`).

No check looks at a file, so a graph made from a live tree can be checked just as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import networkx as nx

from hierarchy.config.address import host_of, is_loopback, is_wildcard, literal_ip, parse_url
from hierarchy.config.yaml import FieldPath, Finding, closest

Attributes = Mapping[str, Any]
Claim = tuple[str, str, int]  #: (machine, host, port); the machine is told apart only where the host is loopback


def check_all(graph: nx.DiGraph) -> Iterator[Finding]:
    """Every check of this module."""
    for check in (
        check_parents,
        check_replicas,
        check_shape,
        check_served,
        check_names,
        check_engines,
        check_urls,
        check_addresses,
    ):
        yield from check(graph)


def check_parents(graph: nx.DiGraph) -> Iterator[Finding]:
    """Every declared parent exists and is a node."""
    nodes = _of_kind(graph, "node")
    for at in graph.nodes.values():
        for parent in at["parents"]:
            field = (*at["field"], "parent")
            if parent in nodes:
                continue
            if parent in graph:
                yield field, f'parent "{parent}" is an engine, and only nodes have children', "name a node"
            else:
                yield field, f'unknown parent "{parent}"', closest(parent, nodes)


def check_replicas(graph: nx.DiGraph) -> Iterator[Finding]:
    """A replica is one of a node that is none itself, and what stands below both is not started by each of them."""
    nodes = _of_kind(graph, "node")
    for name, at in nodes.items():
        original = at["replica_of"]
        if original is None:
            continue
        field = (*at["field"], "replica_of")
        if original == name or original not in nodes:
            yield field, f'unknown node "{original}"', closest(original, [other for other in nodes if other != name])
        elif nodes[original]["replica_of"] is not None:
            yield field, f'"{original}" is a replica itself', f"write `replica_of: {nodes[original]['replica_of']}`"
    for at in _of_kind(graph, "engine").values():
        if len(at["parents"]) > 1 and at["advertise"] is None and at["launched"]:
            message = f"without `url` each of {', '.join(at['parents'])} would start one of its own"
            yield at["field"], message, 'start it by itself, and add `url: "http://host:port"`'


def check_shape(graph: nx.DiGraph) -> Iterator[Finding]:
    """One root, no cycle."""
    nodes = _of_kind(graph, "node")
    roots = [name for name, at in nodes.items() if not at["parents"]]
    if not nodes:
        yield ("nodes",), "no node at all", "add a root: `root: {}`"
    elif not roots:
        yield ("nodes",), "no root: every node has a parent", "leave out `parent` at the topmost node"
    for name in roots[1:]:
        if set(graph[name]) == set(graph[roots[0]]) and graph[name]:
            continue  # they stand before the same children: replicas
        yield nodes[name]["field"], f'a second root beside "{roots[0]}"', f"give it a parent, such as `{roots[0]}`"
    order = {name: index for index, name in enumerate(graph)}
    for cycle in nx.simple_cycles(graph):
        first = min(cycle, key=order.__getitem__)
        start = cycle.index(first)
        way = " -> ".join([*cycle[start:], *cycle[:start], first])
        yield (*graph.nodes[first]["field"], "parent"), f"a cycle: {way}", "give one of them a parent outside of it"


def check_served(graph: nx.DiGraph) -> Iterator[Finding]:
    """An engine stands below every node."""
    nodes = _of_kind(graph, "node")
    part_of = graph.graph.get("slice")  # in one node's part of a tree, only that node is whole
    for name, at in nodes.items():
        if not graph[name] and part_of in (None, name):
            yield at["field"], "no engine serves it: nothing stands below", f"add an engine with `parent: {name}`"


def check_names(graph: nx.DiGraph) -> Iterator[Finding]:
    """Nodes and engines share one space of names, since a parent keeps its children by name."""
    nodes = _of_kind(graph, "node")
    for at in _of_kind(graph, "engine").values():
        if at["field"][-1] in nodes:
            yield at["field"], "a node has this name too", "rename one of the two"


def check_engines(graph: nx.DiGraph) -> Iterator[Finding]:
    """Each engine has what its kind needs to be reached or started."""
    for at in _of_kind(graph, "engine").values():
        if at["advertise"] is not None:
            continue
        if not at["launched"]:
            yield (*at["field"], "url"), f"kind {at['engine']} needs a url", 'add `url: "http://host:port"`'
        elif at["engine"] == "local" and not at["model"]:
            mend = "add `model: smollm2-135m`, or the path of a GGUF file"
            yield (*at["field"], "model"), "kind local needs a model", mend


def check_urls(graph: nx.DiGraph) -> Iterator[Finding]:
    """URLs are http(s), and others can dial what a node registers or is looked for at."""
    for name, at in graph.nodes.items():
        where = (*at["field"], "listen")
        has_nodes_below = any(graph.nodes[child]["kind"] == "node" for child in graph[name])
        if at["advertise"] is not None:
            yield from _check_url(at)
        elif at["listen"] and not at["urls"]:
            message = f"listens on {at['listen'][0][0]}, which nobody can dial"
            yield where, message, "add `advertise`, the URL at which others reach it"
        elif has_nodes_below and any(port == 0 for _, port in at["listen"]):
            yield where, "port 0 is chosen at the start, so its children cannot know it", "give it a fixed port"


def _check_url(at: Attributes) -> Iterator[Finding]:
    field = (*at["field"], "advertise" if at["kind"] == "node" else "url")
    try:
        _, (host, _) = parse_url(at["advertise"])
    except ValueError as error:
        yield field, *error.args
        return
    if is_wildcard(host):
        yield field, f"nobody can dial {host}", "write the address at which others reach it"


def check_addresses(graph: nx.DiGraph) -> Iterator[Finding]:
    """No two listen on, advertise, or stand at one address."""
    owners: dict[Claim, str] = {}
    for name, at in graph.nodes.items():
        if len(set(at["listen"])) < len(at["listen"]):
            yield (*at["field"], "listen"), "an address is given twice", "remove one of them"
        clashes: dict[str, Finding] = {}
        for claim, field in _claims(graph, at).items():
            owner = owners.setdefault(claim, name)
            if owner != name:
                message = f'{claim[1]}:{claim[2]} is the address of {graph.nodes[owner]["kind"]} "{owner}" already'
                clashes.setdefault(owner, (field, message, "give it one of its own"))
        yield from clashes.values()


def _claims(graph: nx.DiGraph, at: Attributes) -> dict[Claim, FieldPath]:
    """The addresses that must be one's own, each with the field that claims it.

    Loopback is one's own machine's, and for an engine its node's. A node on all interfaces claims only its URL: what
    else its machine listens on is not known, as several may stand behind one address translation.
    """
    machine = _machine(at if at["kind"] == "node" else graph.nodes.get(next(iter(at["parents"]), None), at))
    claims: dict[Claim, FieldPath] = {}
    for host, port in at["listen"]:
        if port and not is_wildcard(host):
            claims[_claim(machine, host, port)] = (*at["field"], "listen")
    if at["advertise"] is not None:
        for _, (host, port) in map(parse_url, at["registered"]):
            field = (*at["field"], "advertise" if at["kind"] == "node" else "url")
            claims.setdefault(_claim(machine, host, port), field)
    return claims


def _machine(at: Attributes) -> str:
    """What tells a node's machine from others: an address of its own, else its URL; "" where all is loopback."""
    hosts = [host for host, _ in at["listen"] if not (is_loopback(host) or is_wildcard(host))]
    urls = [url for url in at["urls"] if not is_loopback(host_of(url))]
    return next(iter([*hosts, *urls]), "")


def _claim(machine: str, host: str, port: int) -> Claim:
    ip = literal_ip(host)
    if not is_loopback(host):
        return "", str(ip or host.lower()), port
    # localhost is 127.0.0.1 or ::1, and often both
    return machine, "localhost" if ip is None or str(ip) in ("127.0.0.1", "::1") else str(ip), port


def _of_kind(graph: nx.DiGraph, kind: str) -> dict[str, Attributes]:
    return {name: at for name, at in graph.nodes.items() if at["kind"] == kind}
