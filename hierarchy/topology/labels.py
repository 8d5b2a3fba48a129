"""The labels that a tree's file declares: those of a node hold for all below it that has no other ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hierarchy.config.models import TreeConfig
from hierarchy.config.yaml import Finding
from hierarchy.labels import OTHER, any_of


def labels_of_node(tree: TreeConfig, name: str, above: frozenset[str] = frozenset()) -> dict[str, str]:
    """The labels of a node: its own, else those of the nodes above it, where all of its parents have the same.

    above: nodes that are being looked at, so that a cycle ends.
    """
    spec = tree.nodes.get(name)
    if spec is None or name in above:
        return {}
    original = tree.nodes.get(spec.replica_of) if spec.replica_of is not None else None
    own = spec.labels or (original.labels if original is not None else {})
    parents = (original or spec).parents or spec.parents
    return {**_shared([labels_of_node(tree, parent, above | {name}) for parent in parents]), **own}


def _shared(sets: Sequence[dict[str, str]]) -> dict[str, str]:
    """The labels that all sets have."""
    first, *others = sets or [{}]
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def labels_of_children(
    tree: TreeConfig, name: str, nodes: Sequence[str], engines: Sequence[str]
) -> dict[str, dict[str, str]]:
    """What the node `name` knows of its children: of each node, by the name under which it registers, and engine."""
    inherited = labels_of_node(tree, name)
    found: dict[str, dict[str, str]] = {}
    for key in nodes:
        spec = tree.nodes[key]
        original = tree.nodes.get(spec.replica_of) if spec.replica_of is not None else None
        own = {**inherited, **(spec.labels or (original.labels if original is not None else {}))}
        found[spec.replica_of or key] = _with_those_below(tree, key, own)
    for key in engines:
        found[key] = {**inherited, **tree.engines[key].labels}
    return found


def _with_those_below(tree: TreeConfig, name: str, own: dict[str, str]) -> dict[str, str]:
    """What may be required of a node, given its own labels: what is below it may have other ones.

    Of a label that the node itself does not have, something further may be below it that has none.
    """
    below: dict[str, set[str]] = {}
    for labels in _labels_below(tree, name):
        for label, value in labels.items():
            below.setdefault(label, set()).add(value)
    found = {label: any_of([own.get(label, OTHER), *values]) for label, values in below.items()}
    return {**own, **found}


def _labels_below(tree: TreeConfig, name: str, above: frozenset[str] = frozenset()) -> Iterator[Mapping[str, str]]:
    """The labels that nodes and engines below a node have themselves."""
    if name in above:
        return
    names = {name, tree.nodes[name].replica_of or name}
    for key, node in tree.nodes.items():
        original = tree.nodes.get(node.replica_of) if node.replica_of is not None else None
        if names.intersection((original or node).parents or node.parents):
            yield node.labels
            yield from _labels_below(tree, key, above | {name})
    for engine in tree.engines.values():
        if names.intersection(engine.parents):
            yield engine.labels


def check_labels(tree: TreeConfig) -> Iterator[Finding]:
    """A replica is where the node is whose replica it is: nothing that sends it requests can tell them apart."""
    for name, spec in tree.nodes.items():
        original = tree.nodes.get(spec.replica_of) if spec.replica_of is not None else None
        if original is not None and spec.labels and spec.labels != original.labels:
            message = f"differ from those of {spec.replica_of}, of which {name} is a replica"
            yield Finding(("nodes", name, "labels"), message, "give both the same, or make it a node of its own")
