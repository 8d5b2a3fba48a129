"""A tree to simulate, from a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from hierarchy.config.models import EngineSpec
from hierarchy.simulation.events import Events
from hierarchy.simulation.prompt import Prompt
from hierarchy.simulation.request import Conversation, Request, Turn
from hierarchy.simulation.tree import Hardware, Tree
from hierarchy.topology.declared import DeclaredTree
from tests.simulation.support import tree
from tests.trees import from_text


class Bench:
    """A tree, and its requests that have ended or failed."""

    def __init__(self, folder: Path, declared: DeclaredTree | None = None, **shape: int) -> None:
        self.events = Events()
        self.first: list[Request] = []
        self.ended: list[Request] = []
        self.failed: list[Request] = []
        self.tree = Tree(
            declared or tree(folder, **shape),  # type: ignore[arg-type]
            None,
            Hardware(slots=4),
            {},
            self.events,
            1,
            self.first.append,
            self.ended.append,
            self.failed.append,
        )

    def send(self, seed: int, output: int = 50) -> Request:
        prompt = Prompt().then(seed, 100)
        turn = Turn(0.0, prompt, output, prompt)
        request = Request(Conversation(0.0, seed, iter([])), turn, ("m", "openai"), self.events.now, 3)
        self.tree.enter(request)
        return request

    def leases(self) -> int:
        return sum(child.in_flight for node in self.tree.nodes.values() for child in node.registry)

    def open(self) -> int:
        return sum(uplink.open for node in self.tree.nodes.values() for uplink in node.uplinks)


def test_the_nodes_know_what_is_below_them_before_the_first_request(tmp_path: Path) -> None:
    bench = Bench(tmp_path, sites=3, engines=4)
    root = bench.tree.nodes["root-0"]
    assert root.registry.status().speed == 12
    assert root.registry.status().model_names == ["m"]
    assert [entry.name for entry in bench.tree.entries] == ["root-0"]
    assert bench.tree.keys() == {("m", "openai"): 12.0}


PREFER = """\
version: 1
nodes:
  root: {prefer: [near], spill_after_s: 1}
engines:
  far: {parent: root, kind: vllm, url: "http://far:1", models: [m]}
  near: {parent: root, kind: vllm, url: "http://near:1", models: [m]}
"""


def test_a_node_prefers_its_children_as_the_configuration_says(tmp_path: Path) -> None:
    bench = Bench(tmp_path, from_text(tmp_path, PREFER))
    for number in range(6):
        bench.send(number)
    in_flight = {child.name: child.in_flight for child in bench.tree.nodes["root"].registry}
    assert in_flight == {"near": 4, "far": 2}  # their slots are 4


def test_every_replica_of_the_root_is_an_entry_with_the_same_children(tmp_path: Path) -> None:
    bench = Bench(tmp_path, roots=3)
    assert len(bench.tree.entries) == 3
    assert {entry.registry.status().speed for entry in bench.tree.entries} == {4.0}


def test_leases_are_held_at_each_level_and_given_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    request = bench.send(1)
    bench.events.run(until=0.5)
    assert (bench.leases(), bench.open(), bench.first) == (2, 1, [request])
    bench.events.run(until=2.0)
    assert (bench.leases(), bench.open(), bench.ended) == (0, 0, [request])
    assert request.delay_s == pytest.approx(0.0004)


def test_reports_carry_what_other_parents_sent(tmp_path: Path) -> None:
    bench = Bench(tmp_path, roots=2, sites=1)
    bench.events.run(until=5.0)
    first, second = bench.tree.entries
    for seed in range(6):
        request = Request(
            Conversation(0.0, seed, iter([])),
            Turn(0.0, Prompt().then(seed, 100), 500, Prompt().then(seed, 100)),
            ("m", "openai"),
            bench.events.now,
            3,
        )
        first.receive(request)
    bench.events.run(until=5.5)
    (share,) = second.registry.available(("m", "openai"))
    assert share.value == 6
    assert first.registry.available(("m", "openai"))[0].value == 6
    reports = [uplink.reports for uplink in bench.tree.nodes["site-0"].uplinks]
    assert all(4 <= count <= 9 for count in reports)


def test_what_is_lost_with_a_site_is_all_below_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, roots=2)
    assert bench.tree.find("site-0") == ["gpu-0-0", "gpu-0-1", "site-0"]
    assert bench.tree.find("root-0") == ["root-0"]
    assert bench.tree.find("gpu-1-1") == ["gpu-1-1"]


def test_a_lost_site_leaves_no_leases(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sent = [bench.send(seed) for seed in range(16)]
    bench.events.run(until=0.03)
    cut = bench.tree.lose(bench.tree.find("site-0"), sent)
    bench.events.run(until=30.0)
    assert len(cut) + len(bench.ended) == 16
    assert bench.failed == []
    assert all(request.first_at for request in cut)
    assert (bench.leases(), bench.open()) == (0, 0)


def test_when_all_is_lost_requests_fail_at_the_entry(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.tree.lose([*bench.tree.find("site-0"), *bench.tree.find("site-1")], [])
    requests = [bench.send(seed) for seed in range(5)]
    bench.events.run(until=5.0)
    assert bench.failed == requests
    assert (bench.leases(), bench.open()) == (0, 0)


def test_the_entry_itself_may_be_lost(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.tree.lose(["root-0"], [])
    request = bench.send(1)
    assert bench.failed == [request]


def test_an_engine_at_speed_2_reads_and_writes_twice_as_fast() -> None:
    hardware = Hardware(slots=4, prefill_tokens_per_s=1000, decode_tokens_per_s=10)
    rates = hardware.rates(EngineSpec(parent="root", kind="vllm", speed=2))
    assert (rates.slots, rates.prefill_tokens_per_s, rates.decode_tokens_per_s) == (4, 2000, 20)


def test_the_rates_of_simulated_engines_are_in_the_configuration() -> None:
    spec = EngineSpec.model_validate({"parent": "root", "kind": "simulated", "simulated": {"slots": 3}, "speed": 2})
    assert Hardware(slots=4).rates(spec)[:3] == (3, 8000, 50)
