"""A node tells what is wrong with the tree below it: once, and only when it has changed."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from hierarchy.introspection import oversight
from hierarchy.introspection.oversight import Oversight
from hierarchy.introspection.tree import TreeView
from tests.builders import Table, model, site, status_of
from tests.topology.test_live import entry


def looking_at(tree: dict[str, Any]) -> Oversight:
    return Oversight(lambda: tree, "http://root:1")


def test_one_address_at_two_places_is_told_once_and_that_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hierarchy.tree")
    gpu = entry("gpu", "vllm", "http://10.0.0.11:8000")
    tree = entry("root", below=[entry("a", below=[gpu]), entry("b", below=[{**gpu, "name": "same"}])])
    eye = looking_at(tree)
    for _ in range(2):
        asyncio.run(eye.check())
    (found,) = eye.problems
    assert found.endswith('root/b/same: 10.0.0.11:8000 is already the address of engine "gpu"; choose another address')
    tree["children"]["b"]["children"].clear()
    asyncio.run(eye.check())
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("the running tree: ")
    assert told[1] == "the running tree is in order again"


def test_a_node_without_engines_is_no_oversight() -> None:
    eye = looking_at(entry("root", below=[entry("a")]))
    asyncio.run(eye.check())
    assert eye.problems == []


def test_what_did_not_change_is_not_examined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    table.report(table.declare("gpu", "http://gpu:1", "vllm"), status_of(model()))
    table.take(site("site", model(), children={"rack": entry("rack")}))
    looks = 0

    def counted(*_: object) -> list[Any]:
        nonlocal looks
        looks += 1
        return []

    monkeypatch.setattr(oversight, "conflicts", counted)
    eye = Oversight(TreeView(table, table.clock, 0).tree, "http://root:1")
    asyncio.run(eye.check())
    table.report(table.children["gpu"], status_of(model(queue_length=5)))
    asyncio.run(eye.check())
    assert looks == 1
    table.mark_down(table.children["gpu"], "refused")
    asyncio.run(eye.check())
    assert looks == 2
