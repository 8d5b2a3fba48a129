"""Drains of one node's children: each change is logged once, also where it comes in two ways."""

from __future__ import annotations

import logging

import pytest

from hierarchy.drain import Drains
from hierarchy.gossip import Board
from tests.builders import Table, site


def test_a_command_that_each_instance_got_is_logged_once_by_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hierarchy.drain")
    boards = [Board("site"), Board("site")]
    instances = [Drains(Table(), board, now) for board, now in zip(boards, (lambda: 5.0, lambda: 6.0), strict=True)]
    for drains in instances:
        drains.drain("gpu", "ann", "new GPU")
    for source, target in (boards, reversed(boards)):
        target.receive(source.news(0, ["site"])[0], ["site"], "root")
    assert len(caplog.messages) == 2
    instances[0].drain("gpu", "bob", "another reason")
    boards[1].receive(boards[0].news(0, ["site"])[0], ["site"], "root")
    assert (
        caplog.messages[-1] == "gpu is drained by bob since 1970-01-01T00:00Z: another reason (from another instance)"
    )


def test_what_a_name_means() -> None:
    table = Table()
    drains = Drains(table, Board("root"))
    table.declare("gpu", "http://gpu:1", "vllm")
    for number in (1, 2):
        table.add(site("site", url=f"http://host-{number}:1", instance=f"i{number}", path=[f"i{number}"], replica=True))
    assert drains.keys("gpu") == ["gpu"]
    assert drains.keys("site") == ["site"]
    assert drains.keys("site~2") == ["site@http://host-2:1"]
    assert drains.keys("") == drains.keys("unknown") == []
    drains.drain("gpu", "ann", "")
    table.remove("gpu")
    assert drains.keys("gpu") == ["gpu"]  # so that it can be undrained
