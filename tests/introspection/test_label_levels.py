"""Labels over three levels, with the classes of running nodes: whatever is configured and claimed, nothing leaks."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchy.introspection.outgoing import Outgoing
from hierarchy.introspection.tree import TreeView
from hierarchy.labels import OTHER, LabelSet, Requirement, any_of, value_of
from hierarchy.registry.child import Child
from tests.builders import OPENAI, Table, model, registration, site, status_of

EU: LabelSet = {"region": "eu"}
values = st.sampled_from(["eu", "us", "eu/us", any_of([OTHER, "eu"])])
bound: st.SearchStrategy[LabelSet | None] = (
    st.none() | st.just({}) | st.fixed_dictionaries({"region": values})
)  # None: it is in no file
lies = st.none() | st.lists(st.fixed_dictionaries({"region": st.sampled_from(["eu", "us", ""])}), max_size=2)


class Level:
    """A node and its one child. labels: by which the node knows the child. token: with which the child joined."""

    def __init__(self, labels: LabelSet | None, token: LabelSet | None, below: Level | None, lie: Any = None) -> None:
        self.table = Table()
        self.below = below
        if labels is not None:
            self.table.declare_labels({"child": labels})
        self.table.known_labels.add(("region", "eu"))  # as if there were others that have it
        if below is None:
            self.child = self.table.declare("child", "http://child:1", "vllm")
            self.table.report(self.child, status_of(model()))
            return
        below.table.status()
        offers = Outgoing(below.table, TreeView(below.table, below.table.clock)).labels()
        said = msgspec.to_builtins(offers) if lie is None else [{"sets": lie, "models": None}]
        self.child = self.table.register(registration(site("child", labels=said)), labels=token)


def reached(level: Level, require: Requirement) -> list[Child]:
    """The children on the way of a request; the last one is the engine if it gets there."""
    if not level.table.allowed(OPENAI, require):
        return []
    if level.below is None:
        return [level.child]
    return [level.child, *reached(level.below, level.child.labels.below(require))]


def says_something(child: Child) -> bool:
    return value_of(child.labels.bound, "region") is not None


def is_known(path: list[Child]) -> bool:
    """Is it known that the engine is in the EU: by its node, or by one above that says so of all its subtree?

    The first node must know something itself: a client is told by no one what holds for all.
    """
    if not says_something(path[0]):
        return False
    all_of_it = False
    for child in path:
        said = value_of(child.labels.bound, "region")
        if said is not None and "eu" not in said.split("/"):
            return False
        all_of_it = said == "eu" or (said is None and all_of_it)
    return all_of_it


@settings(max_examples=60)
@given(st.tuples(bound, bound, bound), st.tuples(st.none() | st.just(EU), st.none() | st.just(EU)), lies, lies)
def test_a_request_reaches_only_what_is_known_to_have_the_label(
    bounds: tuple[LabelSet | None, ...], tokens: tuple[LabelSet | None, ...], middle_lies: Any, leaf_lies: Any
) -> None:
    leaf = Level(bounds[2] or {}, None, None)
    middle = Level(bounds[1], tokens[1], leaf, leaf_lies)
    root = Level(bounds[0], tokens[0], middle, middle_lies)
    path = reached(root, Requirement(EU))
    if len(path) == 3:
        assert is_known(path), [dict(child.labels.bound) for child in path]
    whole = [root.child, middle.child, leaf.child]
    if leaf_lies is None and middle_lies is None and is_known(whole) and all(map(says_something, whole)):
        assert path == whole, "what each node knows, and none denies, is found"
    client = reached(middle, Requirement(EU))  # as the client of a site
    if len(client) == 2:
        assert is_known(client)
