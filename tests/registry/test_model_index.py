"""The index of models: it says what all children together list, and no look-up depends on how many there are."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.errors import ModelNotFound, Unavailable
from hierarchy.registry import REMEMBERED_S
from hierarchy.registry.child import Child
from hierarchy.registry.model_index import FEW
from hierarchy.wire.tree_entry import decode
from tests.builders import Table, model, report, site, status_of

NAMES = ("m", "n", "o")
KEYS = [(name, api) for name in NAMES for api in ("openai", "fastchat")]


class Step:
    """What happens to a table."""

    def __init__(self, action: str, child: str, names: list[str], below: list[str]) -> None:
        self.action, self.child, self.names, self.below = action, child, names, below
        self.children = {
            "gpu": {"kind": "vllm", "state": "up", "models": [{"name": name, "api": "fastchat"} for name in below]}
        }

    def __repr__(self) -> str:
        return f"{self.action} {self.child} {self.names} {self.below}"

    def run(self, table: Table, number: int) -> None:
        models = [model(name) for name in self.names]
        if self.action == "register":
            table.add({**site(self.child, *models, children=self.children, seq=number), "models": _rows(self.names)})
        elif self.action == "report":
            table.receive(
                {**report(self.child, *models, children=self.children, seq=number), "models": _rows(self.names)}
            )
        elif self.action == "behind its back" and self.child in table.children:
            table.children[self.child].report(status_of(*models), table.clock())
            table.sweep()
        elif self.action == "remove":
            table.remove(self.child)
        elif self.action == "depart":
            table.depart(self.child)
        elif self.action == "later":
            table.clock.tick(REMEMBERED_S / 2)
            table.sweep()


def _rows(names: list[str]) -> list[dict[str, Any]]:
    return [{"name": name, "api": "openai"} for name in dict.fromkeys(names)]


names = st.lists(st.sampled_from(NAMES), max_size=2, unique=True)
actions = st.sampled_from(["register", "register", "report", "behind its back", "remove", "depart", "later"])
steps = st.builds(Step, actions, st.sampled_from("ab"), names, names)


@settings(deadline=None)
@given(st.lists(steps, max_size=12))
def test_it_lists_what_its_children_list(steps: list[Step]) -> None:
    table = Table()
    for number, step in enumerate(steps, start=2):
        step.run(table, number)
        known = [*table, *table.departed.values()]
        for name, api in KEYS:
            expected = any(_lists(child, name, api) for child in known)
            assert table.listed(name, api) == expected  # type: ignore[arg-type]
            here = {child for child in table if (name, api) in child.shares}
            assert set(table.index.shares((name, api))) == here  # type: ignore[arg-type]
        assert table.index.order == sorted({key for child in table for key in child.shares})
        assert table.model_names() == table.status().model_names


def _lists(child: Child, name: str, api: str) -> bool:
    below = decode({"children": child.subtree}).engines()
    return (name, api) in child.shares or any(engine.serves(name, api) for _, engine in below)


# -- what a request for an unknown model costs ---------------------------------------------------------------


class Uncountable(dict[str, Child]):
    """Children of which nobody may look at all."""

    def __iter__(self) -> Any:
        raise AssertionError("a look-up went through all children")

    values = items = __iter__


def large(children: int = 50) -> Table:
    table = Table()
    for number in range(children):
        gpu = {"kind": "vllm", "state": "up", "models": [{"name": f"below-{number}", "api": "openai"}]}
        table.add(site(f"site-{number}", model(f"m{number}"), children={"gpu": gpu}))
    table.sweep()
    return table


@pytest.mark.parametrize("change", [False, True])
def test_no_request_goes_through_all_children(*, change: bool) -> None:
    """Neither for an unknown model, nor for one that is down, nor for one that can be served."""
    table = large()
    dispatch = Dispatch(table, "p2c", Random(0))
    table.children = Uncountable(table.children)
    if change:  # of one child, just now
        table.receive(report("site-3", model("m3", speed=7.0), children={"gpu": {"state": "down"}}))
    for name in ("unknown", "unknown-2"):
        with pytest.raises(ModelNotFound, match="no child serves model 'unknown"):
            dispatch.choose((name, "openai"), translated=True)
    with pytest.raises(Unavailable):
        dispatch.choose(("below-3", "openai"), translated=True)
    for number in (1, 3):
        assert dispatch.choose((f"m{number}", "openai")).child.name == f"site-{number}"
    assert dispatch.resolve("unknown", "openai") == "unknown"
    assert not table.is_incomplete()


def test_only_some_models_are_looked_at_to_name_some() -> None:
    table = large(5)
    assert table.some_names(3) == ["m0", "m1", "m2"]
    assert table.some_names(10) == ["m0", "m1", "m2", "m3", "m4"]
    table.clock.tick(5)
    assert table.some_names(3) == []


@pytest.mark.parametrize("count", [3, 3 * FEW])
def test_the_models_stay_sorted_however_many_come_and_go_at_once(count: int) -> None:
    table = Table()
    names = [f"m{number:03d}" for number in range(count)]
    Random(1).shuffle(names)
    table.add(site("site-a", *map(model, names)))
    table.add(site("site-b", *map(model, names[: count // 2]), model("a"), model("z")))
    assert table.model_names() == sorted([*names, "a", "z"])
    table.remove("site-a")
    assert table.model_names() == sorted([*names[: count // 2], "a", "z"])
    assert [key[0] for key in table.index.order] == table.model_names()
