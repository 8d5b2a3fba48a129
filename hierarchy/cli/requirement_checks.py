"""The part of `hierarchy check` that is about keys which require labels: does anything in the tree have them?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hierarchy.config.yaml import FieldPath, Problem, closest, read_yaml
from hierarchy.errors import UsageError
from hierarchy.labels import OTHER, LabelSet, Requirement
from hierarchy.security.keys import read_keys
from hierarchy.security.secret import secret_path
from hierarchy.topology import node_config
from hierarchy.topology.declared import DeclaredTree


def unmet_requirements(tree: DeclaredTree) -> list[Problem]:
    """Keys of which no request can be served by what the file declares: with the line in the file of keys.

    A file that cannot be read here is another check's, or on another machine. It counts for all nodes that use it.
    """
    children: dict[Path, list[LabelSet]] = {}
    joins: set[Path] = set()  # of nodes at which others may join with a token
    for name in tree.config.nodes if tree.config.slice is None else [tree.config.slice]:
        config = node_config.part_of(tree, name)
        security = config.settings.security
        if security.api_keys is not None:
            with contextlib.suppress(UsageError):
                path = secret_path(security.api_keys)
                children.setdefault(path, []).extend(config.labels.values())
                if security.key is not None:
                    joins.add(path)
    found: list[Problem] = []
    for path, labels in children.items():
        with contextlib.suppress(UsageError, OSError, UnicodeDecodeError):
            found += _of_file(path, labels, joins=path in joins)
    return found


def _of_file(path: Path, children: list[LabelSet], *, joins: bool) -> Iterator[Problem]:
    source = read_yaml(path.read_text("utf-8"), str(path))[1]
    for number, entry in enumerate(read_keys(path)):
        if entry.require is msgspec.UNSET:
            continue
        needed = entry.require
        if any(Requirement(needed).met_by(labels, needed) for labels in children):  # as far as a child may say so
            continue
        lacking, what, hint = _lacking(needed, children)
        others = ", unless a node that joins with a token has it" if joins else ""
        field: FieldPath = ("keys", number, "require")
        if lacking:
            field = (*field, lacking)
        yield source.problem(field, f"{what}, so each request of {entry.name} gets 503{others}", hint)


def _lacking(needed: LabelSet, children: list[LabelSet]) -> tuple[str, str, str]:
    """The label that nothing has, what is wrong with it, and a hint."""
    for name, value in needed.items():
        known = _values(name, children)
        if not known:
            names = {label for labels in children for label in labels}
            return name, f"nothing in the tree has a label {name}", closest(name, sorted(names))
        if value not in known:
            return name, f"nothing in the tree has {name}={value}", closest(value, sorted(known))
    return "", "no child of an entry node has all of them", "one engine, or one site, must have all of them"


def _values(name: str, children: list[LabelSet]) -> set[str]:
    found = {value for labels in children for value in labels.get(name, "").split("/")}
    return found - {OTHER, ""}
