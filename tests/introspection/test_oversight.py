"""A node logs what is wrong with the tree below it: once, and checks only when the tree has changed."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from hierarchy.introspection.oversight import Oversight
from hierarchy.introspection.tree import TreeView
from hierarchy.runtime.slices import Slices
from hierarchy.runtime.steps import Steps
from tests.builders import Table, model, site, status_of
from tests.topology.running import entry


def oversight_of(tree: dict[str, Any]) -> Oversight:
    def steps() -> Steps[dict[str, Any]]:
        yield
        return tree

    return Oversight(steps, "http://root:1", Slices())


def test_a_repeated_address_is_logged_once_and_so_is_its_correction(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hierarchy.tree")
    gpu = entry("gpu", "vllm", "http://10.0.0.11:8000")
    tree = entry("root", below=[entry("a", below=[gpu]), entry("b", below=[{**gpu, "name": "same"}])])
    oversight = oversight_of(tree)
    for _ in range(2):
        asyncio.run(oversight.check())
    (found,) = oversight.problems
    assert found.endswith('root/b/same: 10.0.0.11:8000 is already the address of engine "gpu"; choose another address')
    tree["children"]["b"]["children"].clear()
    asyncio.run(oversight.check())
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == 2
    assert logged[0].startswith("the running tree: ")
    assert logged[1] == "the running tree is in order again"


def test_a_node_without_engines_is_not_a_problem() -> None:
    oversight = oversight_of(entry("root", below=[entry("a")]))
    asyncio.run(oversight.check())
    assert oversight.problems == []


def test_an_unchanged_tree_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    table.report(table.declare("gpu", "http://gpu:1", "vllm"), status_of(model()))
    table.add(site("site", model(), children={"rack": entry("rack")}))
    checks = 0

    def counted(*_: object) -> list[Any]:
        nonlocal checks
        checks += 1
        return []

    monkeypatch.setattr("hierarchy.introspection.oversight.conflicts", counted)
    oversight = Oversight(TreeView(table, table.clock).tree_steps, "http://root:1", Slices())
    asyncio.run(oversight.check())
    table.report(table.children["gpu"], status_of(model(queue_length=5)))
    asyncio.run(oversight.check())
    assert checks == 1
    table.mark_down(table.children["gpu"], "refused")
    asyncio.run(oversight.check())
    assert checks == 2
