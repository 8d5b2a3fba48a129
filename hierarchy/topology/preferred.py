"""Checks of `prefer`: does each name belong to a child?

A child may also register while the node runs, and then its name is in no file. So a name that the file does not have at
all is only noted, and not even that where the file has no children of the node, or the name is a URL.
"""

from __future__ import annotations

from collections.abc import Iterator

from hierarchy.config.models import TreeConfig
from hierarchy.config.yaml import Finding, closest
from hierarchy.topology.graph import TreeGraph


def check_prefer(config: TreeConfig, graph: TreeGraph) -> Iterator[Finding]:
    """Names of nodes and engines that are no children of the node which prefers them."""
    for node, name, children in _names(config, graph):
        original = config.nodes[name].replica_of if name in config.nodes else None
        field = ("nodes", node, "prefer")
        if original is not None:
            message = f'"{name}" is a replica of "{original}", and all of them have that name above'
            yield Finding(field, message, f"write `{original}`")
        elif name in config.nodes or name in config.engines:
            hint = closest(name, children) if children else f"prefer it at {_parents(config, name)}"
            yield Finding(field, f'"{name}" is not a child of "{node}"', hint)


def note_prefer(config: TreeConfig, graph: TreeGraph) -> Iterator[Finding]:
    """Names that nothing in the file has, at nodes whose children it has."""
    for node, name, children in _names(config, graph):
        if children and name not in config.nodes and name not in config.engines and "://" not in name:
            message = f'no child of "{node}" in this file is called "{name}"; that is right if it registers by itself'
            yield Finding(("nodes", node, "prefer"), message, closest(name, children))


def _names(config: TreeConfig, graph: TreeGraph) -> Iterator[tuple[str, str, list[str]]]:
    """Each node with a name that it prefers and that no child of it has, and the names that its children have."""
    for node, spec in config.nodes.items():
        below = graph.children(node) if spec.prefer else []
        children = [*dict.fromkeys(member.replica_of or member.name for member in below)]
        for name in (name for tier in spec.prefer for name in tier):
            if name not in children:
                yield node, name, children


def _parents(config: TreeConfig, name: str) -> str:
    spec = config.nodes.get(name) or config.engines[name]
    return " or ".join(spec.parents) or "the node above it"
