"""Checks of a tree's shape, names and addresses. They look at the graph alone, so they work on a running tree too."""

from __future__ import annotations

from collections.abc import Iterator

from hierarchy.config.address import is_loopback, is_wildcard, join_address, literal_ip, overlaps, parse_url
from hierarchy.config.yaml import FieldPath, Finding, closest
from hierarchy.topology.graph import Member, TreeGraph
from hierarchy.topology.machines import machines

Claim = tuple[str, str, int]  #: (machine, host, port); the machine matters only if the host is loopback, else it is ""


def check_all(graph: TreeGraph) -> Iterator[Finding]:
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


def check_parents(graph: TreeGraph) -> Iterator[Finding]:
    """Every declared parent exists and is a node."""
    nodes = graph.nodes
    for member in graph:
        field = (*member.field, "parent")
        for parent in member.parents:
            if parent in nodes:
                continue
            if parent in graph.members:
                yield Finding(field, f'parent "{parent}" is an engine, and only nodes have children', "name a node")
            else:
                yield Finding(field, f'unknown parent "{parent}"', closest(parent, nodes))


def check_replicas(graph: TreeGraph) -> Iterator[Finding]:
    """A replica names a node that is not a replica itself, and replicas do not each start the same engine."""
    nodes = graph.nodes
    for name, node in nodes.items():
        original = node.replica_of
        if original is None:
            continue
        field = (*node.field, "replica_of")
        if original == name or original not in nodes:
            others = [other for other in nodes if other != name]
            yield Finding(field, f'unknown node "{original}"', closest(original, others))
        elif nodes[original].replica_of is not None:
            hint = f"write `replica_of: {nodes[original].replica_of}`"
            yield Finding(field, f'"{original}" is itself a replica', hint)
    for engine in graph.engines.values():
        if len(engine.parents) > 1 and engine.has_command:
            message = f"each of {', '.join(engine.parents)} would run the command"
            hint = "let one node start it, or leave `command` out"
            yield Finding((*engine.field, "command"), message, hint)
        elif len(engine.parents) > 1 and engine.declared_url is None and engine.launchable:
            message = f"without `url`, each of {', '.join(engine.parents)} would start its own copy"
            yield Finding(engine.field, message, 'start the engine separately and add `url: "http://host:port"`')


def check_shape(graph: TreeGraph) -> Iterator[Finding]:
    """There is one root and no cycle."""
    nodes = graph.nodes
    roots = [name for name, node in nodes.items() if not node.parents]
    if not nodes:
        yield Finding(("nodes",), "there is no node", "add a root: `root: {}`")
    elif not roots:
        yield Finding(("nodes",), "no root: every node has a parent", "remove `parent` from the topmost node")
    for name in roots[1:]:
        first = graph.children(roots[0])
        if first and {child.key for child in graph.children(name)} == {child.key for child in first}:
            continue  # two roots with the same children are replicas
        hint = f"give it a parent, such as `{roots[0]}`"
        yield Finding(nodes[name].field, f'a second root beside "{roots[0]}"', hint)
    for cycle in graph.cycles():
        field = (*graph.members[cycle[0]].field, "parent")
        hint = "give one of these nodes a parent outside the cycle"
        yield Finding(field, f"a cycle: {' -> '.join([*cycle, cycle[0]])}", hint)


def check_served(graph: TreeGraph) -> Iterator[Finding]:
    """Every node has something below it. A slice is complete only below its own node, so it is checked only there."""
    for name, node in graph.nodes.items():
        if not graph.children(name) and graph.slice_of in (None, name):
            yield Finding(node.field, "has no engine below it", f"add an engine with `parent: {name}`")


def check_names(graph: TreeGraph) -> Iterator[Finding]:
    """A node and an engine do not share a name, since a parent keeps its children by name."""
    nodes = graph.nodes
    for engine in graph.engines.values():
        if engine.field[-1] in nodes:
            yield Finding(engine.field, "a node has the same name", "rename one of them")


def check_engines(graph: TreeGraph) -> Iterator[Finding]:
    """Every engine has what its kind needs to be reached or started."""
    for engine in graph.engines.values():
        if engine.has_command:
            yield from _check_command(engine)
        if engine.declared_url is not None:
            continue
        if not engine.launchable:
            field = (*engine.field, "url")
            yield Finding(field, f"kind {engine.kind} needs a URL", 'add `url: "http://host:port"`')
        elif engine.kind == "local" and not engine.model:
            hint = "add `model: smollm2-135m`, or the path of a GGUF file"
            yield Finding((*engine.field, "model"), "kind local needs a model", hint)


def _check_command(engine: Member) -> Iterator[Finding]:
    """An engine that a command starts is found at its URL, and its models are known before it runs."""
    field = (*engine.field, "command")
    if engine.declared_url is None and engine.launchable:
        hint = 'add `url: "http://127.0.0.1:PORT"`, or leave `command` out'
        yield Finding(field, "without `url` the node starts the engine by itself", hint)
    if not engine.models:
        yield Finding(field, "no request names a model of it before it runs", "add `models: [NAME]`, as it lists them")


def check_urls(graph: TreeGraph) -> Iterator[Finding]:
    """URLs are http(s), and parents and children can dial the addresses that they are given."""
    for name, member in graph.members.items():
        field = (*member.field, "listen")
        if member.declared_url is not None:
            yield from _check_url(member, member.declared_url)
        elif member.listen and not member.urls:
            message = f"listens on {member.listen[0][0]}, which is not an address to dial"
            yield Finding(field, message, "add `advertise`, the URL at which others reach it")
        elif any(port == 0 for _, port in member.listen) and any(child.is_node for child in graph.children(name)):
            message = "port 0 means that the system picks a port, which the children cannot know"
            yield Finding(field, message, "give it a fixed port")


def _check_url(member: Member, url: str) -> Iterator[Finding]:
    try:
        _, (host, _) = parse_url(url)
    except ValueError as error:
        yield Finding(_url_field(member), *error.args)
        return
    if is_wildcard(host):
        hint = "write the address at which others reach it"
        yield Finding(_url_field(member), f"{host} is not an address to dial", hint)


def check_addresses(graph: TreeGraph) -> Iterator[Finding]:
    """No two members have the same address."""
    owners: dict[Claim, Member] = {}
    machine = machines(graph)
    for member in graph:
        yield from _listed_twice(member)
        clashes: dict[str, Finding] = {}
        for claim, field in _claims(member, machine[member.key]).items():
            owner = owners.setdefault(claim, member)
            if owner is not member:
                message = f'{claim[1]}:{claim[2]} is already the address of {owner.noun} "{owner.key}"'
                clashes.setdefault(owner.key, Finding(field, message, "choose another address"))
        yield from clashes.values()


def _listed_twice(member: Member) -> Iterator[Finding]:
    """The addresses of a node at which it could not listen because of its own earlier ones."""
    listed = [*((address, "listen") for address in member.listen), *((a, "admin_listen") for a in member.admin)]
    for earlier, later in overlaps([address for address, _ in listed]):
        (first, _), (second, field) = listed[earlier], listed[later]
        if first == second and field == "listen":
            message = "the same address is listed twice"
        else:
            message = f"{join_address(second)} is taken already, by {join_address(first)}"
        yield Finding((*member.field, field), message, "remove one of them")


def _claims(member: Member, machine: str) -> dict[Claim, FieldPath]:
    """The addresses that no other member may have, each with the field that declares it.

    A loopback address belongs to its own machine. A node that listens on all interfaces claims only its URL and
    loopback: the other addresses of its machine are unknown, and machines behind one address translation share them.
    """
    claims: dict[Claim, FieldPath] = {}
    listed = [(address, "listen") for address in member.listen] + [(a, "admin_listen") for a in member.admin]
    for (host, port), field in listed:
        if port and (not is_wildcard(host) or host == "0.0.0.0"):
            address = "127.0.0.1" if is_wildcard(host) else host
            claims.setdefault(_claim(machine, address, port), (*member.field, field))
    if member.declared_url is not None:
        for _, (host, port) in map(parse_url, member.urls_for_parent):
            claims.setdefault(_claim(machine, host, port), _url_field(member))
    return claims


def _url_field(member: Member) -> FieldPath:
    return *member.field, "advertise" if member.is_node else "url"


def _claim(machine: str, host: str, port: int) -> Claim:
    ip = literal_ip(host)
    if not is_loopback(host):
        return "", str(ip or host.lower()), port
    # localhost is 127.0.0.1 or ::1, and often both
    return machine, "localhost" if ip is None or str(ip) in ("127.0.0.1", "::1") else str(ip), port
