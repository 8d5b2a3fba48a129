"""A slice: one node's part of a tree as a YAML file of its own, with what its machine needs and nothing of other sites.

It holds the node and its engines as written, with `defaults` and `aliases`; `security` and `tls` only at the node, with
the values that apply to it, so that a slice does not show where other nodes keep their secrets. Of the parents and of
the nodes right below, it holds only where they are, so that a slice can be checked like a whole tree. It does not name
the models of engines further below: with a slice, a node learns them from its children's registrations alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from ruamel.yaml import YAML

from hierarchy.config.models import TreeConfig
from hierarchy.topology import node_config
from hierarchy.topology.declared import DeclaredTree
from hierarchy.topology.graph import Member
from hierarchy.topology.labels import labels_of_node

COPIED_SECTIONS = ("version", "aliases")  # of the file; the others are left out, or filtered for the node
MERGED_BLOCKS = ("security", "tls")  # of `defaults`; they move to the node
PLACE_FIELDS = (
    "parent",
    "replica_of",
    "listen",
    "advertise",
    "link",
    "subnet",
    "labels",
)  # all that is kept of another node

Entry = dict[str, Any]  #: one node or engine as written


def slice_of(tree: DeclaredTree, name: str) -> dict[str, Any]:
    """The slice for one node, as plain data. `from_tree` gives the same for it as for the tree, but for `models_below`.

    Raises:
        UsageError: there is no node of that name.
        ConfigError: the tree has problems.
    """
    config = node_config.from_tree(tree, name)
    written = tree.config.model_dump(mode="json", exclude_unset=True)
    defaults, own = written.get("defaults", {}), written["nodes"][name]
    own |= {block: defaults.pop(block) | own.get(block, {}) for block in MERGED_BLOCKS if block in defaults}
    nodes = _nodes(tree, name, written["nodes"], config.parents)
    engines = {key: written["engines"][key] for key in tree.graph.digraph[name] if key in tree.config.engines}
    for key, entry in (nodes | engines).items():
        if key in tree.graph.digraph[name] and isinstance(entry.get("parent"), list):
            entry["parent"] = [parent for parent in entry["parent"] if parent in nodes]
    sections = {section: written[section] for section in COPIED_SECTIONS if section in written}
    filtered = {"defaults": defaults, "nodes": nodes, "engines": engines}
    sections |= {section: value for section, value in filtered.items() if value}
    return {**sections, "slice": name, **_subnets(tree, [tree.graph.members[key] for key in nodes | engines])}


def _nodes(tree: DeclaredTree, name: str, written: dict[str, Entry], parent_urls: tuple[str, ...]) -> dict[str, Entry]:
    """The node itself, its replicas, and its parents and children with the one URL at which they are dialled."""
    graph, member = tree.graph, tree.graph.members[name]
    children = graph.children(name)
    kept = {*(child.key for child in children), *member.parents, *_replicas(tree, name)}
    nodes = {key: entry if key == name else _place(entry) for key, entry in written.items() if key in kept}
    for parent, url in zip(member.parents, parent_urls, strict=True):
        nodes[parent].pop("parent", None)
        nodes[parent]["advertise"] = url
    for replica, dialled in node_config.replica_urls(tree, name):
        if dialled is not None:
            nodes[replica]["advertise"] = dialled
    for child in children:
        dialled = tree.reach.choose_url(member, child, child.urls_for_parent)
        urls = [url for url in (dialled, *child.urls_for_parent) if url]
        if child.is_node and urls:
            nodes[child.key]["advertise"] = urls[0]
    _write_labels(tree, name, nodes)
    return nodes


def _write_labels(tree: DeclaredTree, name: str, nodes: dict[str, Entry]) -> None:
    """At the node, and its other instances, those that it has from nodes further up, too."""
    if labels := labels_of_node(tree.config, name):
        for key in _replicas(tree, name):
            nodes[key]["labels"] = labels


def _replicas(tree: DeclaredTree, name: str) -> set[str]:
    """The node and all its replicas; the node whose replicas they are is one of them."""
    return {name, *(replica for replica, _ in node_config.replica_urls(tree, name))}


def _place(entry: Entry) -> Entry:
    return {field: value for field, value in entry.items() if field in PLACE_FIELDS}


def _subnets(tree: DeclaredTree, members: Iterable[Member]) -> dict[str, Any]:
    """The subnets of these members, and the pairs of `reach` between them."""
    needed = set().union(*(tree.reach.subnets_of(member) for member in members))
    subnets = {name: cidr for name, cidr in tree.config.subnets.items() if name in needed}
    pairs = [list(pair) for pair in tree.config.reach if needed.issuperset(pair)]
    return {key: value for key, value in (("subnets", subnets), ("reach", pairs)) if value}


def as_yaml(part: dict[str, Any], comment: str) -> str:
    """A slice as the text of a file, its sections in the order of the format, with a comment at its top."""
    order = [section for section in TreeConfig.model_fields if section in part]
    writer = YAML()
    writer.default_flow_style = False
    writer.width = 4096
    text = io.StringIO()
    writer.dump({section: part[section] for section in order}, text)
    return "".join(f"# {line}\n" for line in comment.splitlines()) + text.getvalue()
