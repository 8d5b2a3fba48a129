"""The part of `hierarchy check` that is about nodes one by one: would `serve` start each of them, on this machine?"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from hierarchy.cli.node_flags import NodeFlags
from hierarchy.config.address import is_loopback
from hierarchy.config.partial import touches
from hierarchy.config.refusal import Refusal
from hierarchy.config.yaml import Problem
from hierarchy.preflight import hung, refusals, unusable_addresses
from hierarchy.security.startup import full_disk
from hierarchy.topology import node_config
from hierarchy.topology.declared import DeclaredTree
from hierarchy.topology.machines import machines


def nodes_here(tree: DeclaredTree, node: str | None, *, asks_for_the_tree: bool) -> list[str]:
    """The nodes that run on this machine, as far as that is known. node: the one that the command line names."""
    names = list(tree.config.nodes)
    if node is not None:
        if not tree.problems:
            node_config.from_tree(tree, node)  # raises UsageError if it is not in the file
        return [node]
    if asks_for_the_tree:
        return []
    if tree.config.slice is not None or len(names) == 1:
        return [tree.choose_node(None)]
    together = len(set(machines(tree.graph).values())) == 1
    only_loopback = all(is_loopback(host) for member in tree.graph for host, _ in member.listen)
    return names if together and only_loopback else []


def examine(tree: DeclaredTree, given: NodeFlags, here: Collection[str]) -> tuple[list[Problem], list[Problem]]:
    """Everything that is wrong with the tree and its nodes; and what may be, since it depends on a machine.

    Args:
        given: flags of `serve`, which apply to every node.
        here: names of the nodes on this machine.
    """
    problems = list(tree.problems)
    notes: list[Problem] = []
    is_valid = not problems
    environ = given.environ()
    names = tree.config.nodes if tree.config.slice is None else [tree.config.slice]
    configs = {name: given.over(node_config.part_of(tree, name)) for name in names if name in tree.config.nodes}
    silent = hung(configs.values(), environ)  # of all at once, since it takes seconds
    for name, config in configs.items():
        refused = silent.get(name) or refusals(config, environ)
        found = [(refusal, refusal.here and name not in here) for refusal in refused]
        if name in here and not refused and (full := full_disk(config, environ)):
            found.append((_full(full), True))
        if not is_valid:  # only what does not depend on the tree
            found = [(refusal, is_note) for refusal, is_note in found if _is_independent(tree, name, refusal)]
        elif name in here:
            found += [
                (_taken(refusal) if is_taken else refusal, is_taken) for refusal, is_taken in unusable_addresses(config)
            ]
        for refusal, is_note in found:
            problem = tree.source.problem(tree.field_of(name, refusal.field), refusal.message, refusal.hint)
            (notes if is_note else problems).append(problem)
    return _in_order(problems), _in_order(notes)


def _is_independent(tree: DeclaredTree, node: str, refusal: Refusal) -> bool:
    """Whether a refusal is about a setting itself, which is right as far as the file goes."""
    field = tree.field_of(node, refusal.field)
    return refusal.field[:1] in (("security",), ("tls",), ("engines",)) and not touches(field, tree.wrong)


def _full(full: str) -> Refusal:
    what, _, meaning = full.partition("; ")
    return Refusal(("security", "state_dir"), what, meaning, here=True)


def _taken(refusal: Refusal) -> Refusal:
    return replace(refusal, hint="ignore this if that process is the node itself")


def _in_order(found: Iterable[Problem]) -> list[Problem]:
    """In the order of the file, each once: several nodes may have one problem in `defaults`."""
    return sorted(dict.fromkeys(found), key=lambda problem: problem.line)
