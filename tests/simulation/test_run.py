"""Whole simulations of small trees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hierarchy.balancing.policy import POLICIES
from hierarchy.errors import UsageError
from hierarchy.simulation.load import Load, generated
from hierarchy.simulation.prompt import Prompt
from hierarchy.simulation.request import Conversation, Turn
from hierarchy.simulation.run import CENTRAL, DECLARED, Scenario, known_policies, simulate
from hierarchy.simulation.tree import Hardware
from hierarchy.topology.declared import read_tree
from tests.simulation.support import tree
from tests.trees import CONFIGS

SMALL = Hardware(slots=8, cache_tokens=100_000)


def chats(rate: float, count: int = 150, seed: int = 1) -> Callable[[], Load]:
    return lambda: generated(seed, count, rate)


def bursts(count: int, every_s: float, output: int = 50) -> Callable[[], Load]:
    """Requests without anything in common, at fixed times."""

    def conversation(number: int) -> Conversation:
        prompt = Prompt().then(number, 100)
        return Conversation(number * every_s, number, iter([Turn(0.0, prompt, output, prompt)]))

    return lambda: Load((conversation(n) for n in range(count)), count, 0.0, 0.0, is_cut=False)


@pytest.mark.parametrize("policy", [DECLARED, *POLICIES, *CENTRAL])
def test_every_policy_serves_all_that_clients_send(policy: str, tmp_path: Path) -> None:
    scenario = Scenario(tree(tmp_path), bursts(300, 0.05), SMALL)
    result = simulate(scenario, policy)
    assert (result.requests, result.failed) == (300, 0)
    assert 0.0125 <= result.ttft.p50 < 0.1
    assert result.hit_rate == 0.0
    assert policy in known_policies()


def test_the_same_seed_gives_the_same_result(tmp_path: Path) -> None:
    scenario = Scenario(tree(tmp_path), chats(5.0), SMALL)
    assert simulate(scenario, "p2c") == simulate(scenario, "p2c")
    assert simulate(scenario, "p2c") != simulate(scenario._replace(seed=2), "p2c")


def test_so_many_clients_have_so_many_conversations(tmp_path: Path) -> None:
    load = generated(1, 60, clients=20)
    assert load.clients == 20
    result = simulate(Scenario(tree(tmp_path), lambda: generated(1, 60, clients=20), SMALL, warm_up_s=0.0))
    assert result.requests > 60  # all of those that have begun go on until the last one begins
    assert result.failed == 0


def test_a_router_that_knows_all_caches_hits_them_more_often(tmp_path: Path) -> None:
    scenario = Scenario(tree(tmp_path, engines=3), chats(8.0, 300), SMALL)
    by_load, by_cache = simulate(scenario, "shortest_queue"), simulate(scenario, "central")
    assert by_cache.hit_rate > by_load.hit_rate + 0.1
    assert by_cache.ttft.mean < by_load.ttft.mean


def test_the_time_of_messages_is_part_of_the_first_token(tmp_path: Path) -> None:
    near = Scenario(tree(tmp_path), bursts(20, 2.0), SMALL)
    far = near._replace(round_trips_s={"site-0": 0.1, "site-1": 0.1})
    difference_s = simulate(far).ttft.p50 - simulate(near).ttft.p50
    assert difference_s == pytest.approx(0.1, abs=0.01)


def test_what_waits_for_its_first_token_in_a_lost_site_is_tried_elsewhere(tmp_path: Path) -> None:
    scenario = Scenario(tree(tmp_path), bursts(400, 0.05), SMALL, losses=(("site-1", 10.02),))
    result = simulate(scenario)
    assert result.requests + result.failed == 400
    assert 1 <= result.failed <= 16  # of those whose response had begun
    assert [phase.name for phase in result.phases][:2] == ["before", "site-1 lost"]
    assert sum(phase.requests for phase in result.phases) == result.requests


@pytest.mark.parametrize("policy", ["shortest_queue", *CENTRAL])
def test_without_any_engine_left_requests_fail(policy: str, tmp_path: Path) -> None:
    losses = (("site-0", 5.0), ("site-1", 5.0))
    result = simulate(Scenario(tree(tmp_path), bursts(200, 0.05), SMALL, losses=losses), policy)
    assert result.requests + result.failed == 200
    assert 98 <= result.failed <= 125  # with those whose responses had begun


def test_what_only_a_lost_node_connects_is_lost_with_it(tmp_path: Path) -> None:
    result = simulate(Scenario(tree(tmp_path, roots=2), bursts(100, 0.05), SMALL, losses=(("root-0", 1.0),)))
    assert result.requests >= 85  # by way of the other root


def test_clients_come_to_all_entry_nodes(tmp_path: Path) -> None:
    result = simulate(Scenario(tree(tmp_path, roots=4, sites=4), chats(10.0, 200), SMALL))
    assert result.failed == 0
    assert result.busy_most < 2 * result.busy


def test_a_tree_with_several_models_shares_the_load_among_them() -> None:
    result = simulate(Scenario(read_tree(CONFIGS / "three-tiers.yaml"), bursts(200, 0.2)))
    assert (result.requests, result.failed) == (200, 0)
    assert result.busy_least > 0
    assert {model.name for model in result.models} == {"sim-small", "sim-large", "sim-code"}
    assert sum(model.requests for model in result.models) == 200
    assert [model.ttft.p99 for model in result.models] == sorted((m.ttft.p99 for m in result.models), reverse=True)


def test_progress_is_shown_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    simulate(Scenario(tree(tmp_path), bursts(50, 0.1), SMALL), DECLARED, lambda begun, of: seen.append((begun, of)))
    assert seen[-1] == (50, 50)


def test_a_slice_cannot_be_simulated(tmp_path: Path) -> None:
    file = tmp_path / "slice.yaml"
    text = (CONFIGS / "single-node.yaml").read_text("utf-8")
    file.write_text(text + "\nslice: front\n", "utf-8")
    with pytest.raises(UsageError, match="is a slice; simulate the file of the whole tree"):
        simulate(Scenario(read_tree(file), bursts(1, 1.0)))


def test_what_is_to_be_lost_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no node or engine of that name"):
        simulate(Scenario(tree(tmp_path), bursts(1, 1.0), losses=(("nowhere", 1.0),)))


def test_a_short_load_is_not_steady(tmp_path: Path) -> None:
    assert not simulate(Scenario(tree(tmp_path), chats(5.0, 20), SMALL)).is_steady
    assert simulate(Scenario(tree(tmp_path), bursts(5, 1.0), SMALL)).is_steady
