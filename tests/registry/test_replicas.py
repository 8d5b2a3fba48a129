"""Replicas of a child: their shared name, capacity and drain."""

from __future__ import annotations

from typing import Any

import pytest

from hierarchy.errors import InvalidField, NameTaken
from hierarchy.registry import drain_key
from hierarchy.registry.admission import MAX_REPLICAS
from hierarchy.registry.drain import Drain
from hierarchy.wire.limits import limits
from tests.builders import OPENAI, Table, model, report, site

LIMITS = limits(256 * 1024)


def instance(number: int, *models: Any, **fields: Any) -> dict[str, Any]:
    """A registration of one of several replicas of site-a."""
    url, name = f"http://host-{number}:21001", f"site-a-{number}"
    return site("site-a", *models, url=url, instance=name, path=[name], replica=True, **fields)


def heartbeat(number: int, *models: Any, **fields: Any) -> dict[str, Any]:
    """A report of that replica."""
    url, name = f"http://host-{number}:21001", f"site-a-{number}"
    return report("site-a", *models, url=url, instance=name, path=[name], **fields)


@pytest.fixture
def table() -> Table:
    return Table()


def test_capacity_counts_once(table: Table) -> None:
    for number in (1, 2, 3):
        table.add(instance(number, model(speed=6, queue_length=9)))
    assert (table.status().speed, table.status().queue_length) == (6, 9)
    assert table.available_names() == {"site-a", "site-a~2", "site-a~3"}
    assert table.receive(heartbeat(2, model(speed=12)))
    assert table.status().speed == 2 + 4 + 2


def test_if_a_replica_dies_the_others_have_its_capacity(table: Table) -> None:
    for number in (1, 2):
        table.add(instance(number, model(speed=6)))
    table.clock.tick(2.0)
    assert table.receive(heartbeat(2, model(speed=6)))
    table.clock.tick(1.5)  # the first sent no report
    table.sweep()
    assert (table.available_names(), table.status().speed) == ({"site-a~2"}, 6)
    table.add(instance(1, model(speed=6), seq=5))
    assert table.status().speed == 6
    assert table.depart("site-a~2", "site-a-2") is not None
    assert (table.available_names(), table.status().speed) == ({"site-a"}, 6)


def test_a_restarted_replica_gets_its_name_again(table: Table) -> None:
    table.add(instance(1))
    table.add(instance(2))
    again = instance(2)
    again["instance"] = "another"
    assert table.add(again).name == "site-a~2"
    assert len(table) == 2


def test_leases_remain_when_a_replica_registers_or_deregisters(table: Table) -> None:
    first = table.add(instance(1, model(queue_length=4)))
    lease = first.lease(first.shares[OPENAI])
    table.add(instance(2, model(queue_length=4)))
    assert first.in_flight == 1
    assert first.load(OPENAI) == 3  # half of the queue, and the lease of this node
    lease.release()
    assert first.load(OPENAI) == 2


def test_another_node_with_the_name_is_refused(table: Table) -> None:
    table.add(instance(1))
    with pytest.raises(NameTaken):
        table.add(site("site-a", url="http://other:21001", instance="x"))
    table = Table()
    table.add(site("site-a"))
    with pytest.raises(NameTaken):
        table.add(instance(2))


def test_one_credential_is_for_a_limited_number_of_instances(table: Table) -> None:
    """A site with a credential could else fill the registry with itself."""
    for number in range(MAX_REPLICAS):
        table.add(instance(number))
    with pytest.raises(NameTaken, match="32 instances"):
        table.add(instance(MAX_REPLICAS))
    table.add(instance(3))
    assert len(table) == MAX_REPLICAS


def test_a_drain_by_name_is_for_all_replicas_including_later_ones(table: Table) -> None:
    table.add(instance(1))
    table.add(instance(2))
    assert len(table.set_drain("site-a", Drain())) == 2
    assert table.available_names() == set()
    table.add(instance(3))
    assert table.available_names() == set()
    assert len(table.set_drain("site-a", None)) == 3
    assert len(table.available_names()) == 3
    assert not table.set_drain("unknown", None)


def test_one_instance_is_drained_by_its_url_whatever_its_number(table: Table) -> None:
    for number in (2, 1):
        table.add(instance(number))
    second = table.children["site-a~2"]
    assert drain_key(second) == f"site-a@{second.url}"
    table.set_drain(drain_key(second), Drain())
    assert table.available_names() == {"site-a"}


def filled(number: int, entries: int = 700) -> dict[str, Any]:
    return instance(number, children={f"e{number}-{entry}": {"kind": "vllm"} for entry in range(entries)})


def test_all_instances_of_one_credential_have_one_share_of_what_is_kept_below_them(table: Table) -> None:
    table.limits = LIMITS
    for number in range(MAX_REPLICAS):
        table.add(filled(number))
    kept = [child for child in table if child.subtree]
    assert 1 <= len(kept) <= 2
    assert sum(child.below.memory for child in table) <= 1.5 * LIMITS.memory_bytes
    for number in range(MAX_REPLICAS):
        for seq in range(2, 6):
            patch = {f"x{seq}-{entry}": {"kind": "vllm"} for entry in range(500)}
            assert table.receive(heartbeat(number, seq=seq, children=patch))
    assert sum(child.below.memory for child in table) <= 1.5 * LIMITS.memory_bytes
    assert len(table) == MAX_REPLICAS


def test_what_an_instance_left_behind_counts_too_and_goes_with_it(table: Table) -> None:
    table.limits = LIMITS
    for number in (1, 2):
        table.add(instance(number))
    first = table.add(filled(1, 800))
    table.depart(first.name)
    assert not table.add(filled(2, 800)).subtree
    table.forget_departed(first.name)
    assert table.add(filled(2, 800)).subtree


def test_each_instance_keeps_a_small_subtree_whatever_the_others_have(table: Table) -> None:
    table.limits = LIMITS
    table.add(filled(1, 800))
    for number in range(2, MAX_REPLICAS):
        assert table.add(filled(number, 5)).subtree


def test_all_instances_of_one_credential_list_a_limited_number_of_models_and_instances(table: Table) -> None:
    table.limits = LIMITS
    most, paths = LIMITS.group_models, LIMITS.group_path
    half = [model(f"m{number}") for number in range(140)]
    for number in (1, 2):
        table.add(instance(number, *half))
    with pytest.raises(InvalidField, match="models: the instances"):
        table.add(instance(3, *half))
    table.add(instance(3, *half[: LIMITS.instance_models]))
    with pytest.raises(InvalidField, match="models: the instances"):
        table.receive(heartbeat(3, *half, seq=2))
    assert table.receive(heartbeat(2, *half, seq=2))
    assert sum(len(child.shares) for child in table) <= most + LIMITS.instance_models

    table = Table()
    table.limits = LIMITS
    for number in (1, 2):
        table.add({**instance(number), "path": [f"site-a-{number}-{n}" for n in range(paths // 2)]})
    with pytest.raises(InvalidField, match="path: the instances"):
        table.add({**instance(3), "path": [f"site-a-3-{n}" for n in range(paths // 2)]})
    table.add(instance(3))
