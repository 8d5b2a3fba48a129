"""Why a request would go where: the odds are those of the policies themselves, and every reason has its words."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.balancing.policy import POLICIES, Candidates
from hierarchy.introspection.explain import chances, explain
from hierarchy.introspection.tree import TreeView
from hierarchy.registry.child import Child, Share
from hierarchy.wire.status import Api
from hierarchy.wire.tree_entry import decode
from tests.builders import OPENAI, Table, model, nested, report, scalars, site, status_of, worker


def shares_of(pairs: list[tuple[float, float]]) -> list[Share]:
    found = []
    for number, (score, speed) in enumerate(pairs):
        share = Share(Child(f"c{number}", "http://c:1", "vllm"), OPENAI)
        share.score, share.speed = score, speed
        found.append(share)
    return found


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "pairs",
    [
        [(1.0, 2.0)],
        [(0.0, 1.0), (0.0, 3.0)],
        [(2.0, 1.0), (1.0, 1.0), (0.0, 4.0)],
        [(0.5, 8.0), (0.5, 1.0), (3.0, 2.0), (0.0, 1.0)],
    ],
)
def test_chances_are_those_of_the_policy(policy: str, pairs: list[tuple[float, float]]) -> None:
    candidates, rng, choose, rounds = Candidates(shares_of(pairs)), Random(5), POLICIES[policy](), 6000
    taken = Counter(choose(candidates, rng).child.name for _ in range(rounds))
    for number, chance in enumerate(chances(policy, pairs)):
        assert taken[f"c{number}"] / rounds == pytest.approx(chance, abs=0.03)


@given(
    st.sampled_from([*POLICIES, "", "new"]),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 100)), min_size=1, max_size=6),
)
def test_somebody_is_always_taken(policy: str, pairs: list[tuple[float, float]]) -> None:
    odds = chances(policy, pairs)
    assert sum(odds) == pytest.approx(1)
    assert all(0 <= chance <= 1 + 1e-9 for chance in odds)


def test_nobody_has_no_chances() -> None:
    assert [chances(policy, []) for policy in [*POLICIES, ""]] == [[]] * 5


def test_a_candidate_without_speed_has_a_score_and_a_chance() -> None:
    assert chances("shortest_queue", [(0.0, 0.0), (1.0, 2.0)]) == [1.0, 0.0]
    assert chances("lottery", [(0.0, 0.0), (0.0, 0.0)]) == [0.5, 0.5]


def explained(table: Table, name: str = "m", api: Api = "openai") -> dict[str, Any]:
    return explain(decode(TreeView(table, table.clock, 0).tree()), name, api)


def reasons(answer: dict[str, Any], level: int = 0) -> dict[str, str]:
    return {item["name"]: item["reason"] for item in answer["levels"][level]["passed_over"]}


def leaf(name: str, state: str = "up", queue_length: int = 0, speed: float = 1.0, **fields: Any) -> dict[str, Any]:
    row = {"name": "m", "api": "openai", "speed": speed, "queue_length": queue_length, "slots": 0}
    return {"name": name, "kind": "vllm", "state": state, "models": [row], "children": {}, **fields}


def test_level_by_level_down_to_an_engine() -> None:
    table = Table()
    engine = table.declare("slow", "http://slow:1", "vllm")
    table.report(engine, status_of(model(queue_length=4)))
    below = {"a": leaf("a", queue_length=3), "b": leaf("b", queue_length=1, speed=2.0)}
    table.take(site("site", model(speed=3.0, queue_length=4), children=below, dispatch="shortest_queue"))
    table.children["site"].reverse = True
    answer = explained(table)
    assert (answer["model"], answer["api"], answer["path"]) == ("m", "openai", "site/b")
    first, second = answer["levels"]
    assert (first["node"], first["next"], second["node"], second["dispatch"]) == (
        "root",
        "site",
        "site",
        "shortest_queue",
    )
    assert first["candidates"] == [
        {"name": "slow", "kind": "vllm", "link": "direct", "load": 4, "speed": 1.0, "score": 4.0, "chance": 0.0},
        {"name": "site", "kind": "node", "link": "reverse", "load": 4, "speed": 3.0, "score": 4 / 3, "chance": 1.0},
    ]
    assert [(item["name"], item["score"], item["chance"]) for item in second["candidates"]] == [
        ("a", 3.0, 0.0),
        ("b", 0.5, 1.0),
    ]


def test_our_own_leases_count_at_once() -> None:
    table = Table()
    for name in "ab":
        table.report(table.declare(name, f"http://{name}:1", "vllm"), status_of(model()))
    assert [item["chance"] for item in explained(table)["levels"][0]["candidates"]] == [0.5, 0.5]
    share = table.children["a"].shares[OPENAI]
    lease = table.children["a"].lease(share)
    assert explained(table)["path"] == "b"
    lease.release()


def test_every_way_to_be_passed_over_has_its_words() -> None:
    table = Table()
    table.report(table.declare("good", "http://good:1", "vllm"), status_of(model()))
    table.report(table.declare("other", "http://other:1", "vllm"), status_of(model("n")))
    for name in ("down", "ejected", "draining", "starting"):
        table.report(table.declare(name, f"http://{name}:1", "vllm"), status_of(model()))
    table.mark_down(table.children["down"], "refused")
    table.eject(table.children["ejected"], 2.0, "cannot be reached")
    table.drain(table.children["draining"])
    table.declare("new", "http://new:1", "vllm")
    table.take(worker(models=["m"]))
    table.take(site("held", model("n"), children={"gpu": leaf("gpu", "down", detail="dead")}))
    table.take(site("left", model(), children={"gpu": leaf("gpu")}))
    table.depart("left")
    answer = explained(table)
    told = reasons(answer)
    assert answer["path"] in ("good", "starting")
    assert told["other"] == told["new"] == "does not serve m"
    assert told["down"] == "down: refused"
    assert told["ejected"] == "ejected: cannot be reached"
    assert told["draining"] == "draining"
    assert told["http://w1:21002"] == (
        "serves m through the fastchat API only; other children serve it through the openai API"
    )
    assert told["held"] == "no engine below it can take m now: gpu is down (dead)"
    assert told["left"].startswith("gone: left, or fell silent")


def test_the_other_family_where_nobody_can_be_had_in_the_one_asked_for() -> None:
    table = Table()
    table.take(worker(models=["m"]))
    answer = explained(table)
    assert (answer["api"], answer["levels"][0]["api"], answer["path"]) == ("openai", "fastchat", "http://w1:21002")
    assert answer["levels"][0]["passed_over"] == []


def test_a_silent_node_is_passed_over_for_its_silence() -> None:
    table = Table()
    table.take(site("site", model(), children={"gpu": leaf("gpu")}))
    table.clock.tick(3)
    answer = explained(table)
    assert (answer["path"], reasons(answer)) == ("", {"site": "silent: no report for 3 s"})
    table.beat(report("site", model(), seq=3))
    assert explained(table)["path"] == "site/gpu"


def test_many_held_engines_are_counted() -> None:
    table = Table()
    table.take(site("site", model("n"), children={f"g{n}": leaf(f"g{n}", "down") for n in range(5)}))
    assert reasons(explained(table))["site"] == (
        "no engine below it can take m now: g0 is down, g1 is down, g2 is down, and 2 more"
    )


@given(nested(st.none() | scalars | st.sampled_from(["node", "m", "openai"])))
def test_any_json_is_explained(junk: Any) -> None:
    tree = {
        "kind": "node",
        "name": "root",
        "children": {"x": junk, "y": {"kind": "node", "state": "up", "children": junk}},
    }
    answer = explain(decode(tree), "m", "openai")
    assert answer["path"] == ""


def test_a_child_without_a_name_is_not_taken_for_the_end() -> None:
    answer = explain(decode({"kind": "node", "children": {"": leaf("", "down")}}), "m", "openai")
    assert (answer["path"], len(answer["levels"])) == ("", 1)


def test_a_tree_that_goes_round_is_followed_to_a_limit() -> None:
    row = {"name": "m", "api": "openai", "speed": 1.0, "queue_length": 0}
    entry: dict[str, Any] = {"kind": "node", "name": "x", "state": "up", "models": [row], "children": {}}
    entry["children"]["x"] = entry
    assert len(explain(decode(entry), "m", "openai")["levels"]) == 64
