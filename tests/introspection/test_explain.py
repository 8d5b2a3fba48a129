"""Where a request would go: the chances are those of the policies themselves, and each reason is given."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.balancing.candidates import Candidates
from hierarchy.balancing.policy import POLICIES
from hierarchy.balancing.prefix_choice import Known
from hierarchy.balancing.tiers import Tiers
from hierarchy.introspection.explain import Level, Route, chances, explain, with_answer
from hierarchy.introspection.tree import TreeView
from hierarchy.prefix.cost import FULL
from hierarchy.registry.child import Child, Share
from hierarchy.registry.drain import Drain
from hierarchy.wire.status import Api
from hierarchy.wire.tree_entry import decode
from tests.builders import OPENAI, Table, eject, model, nested, report, scalars, site, status_of, worker


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
def test_chances_match_the_draws_of_the_policy(policy: str, pairs: list[tuple[float, float]]) -> None:
    candidates, rng, choose, rounds = Candidates(shares_of(pairs)), Random(5), POLICIES[policy](), 6000
    taken = Counter(choose(candidates, rng).child.name for _ in range(rounds))
    for number, chance in enumerate(chances(policy, pairs)):
        assert taken[f"c{number}"] / rounds == pytest.approx(chance, abs=0.03)


@given(
    st.sampled_from([*POLICIES, "", "new"]),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 100)), min_size=1, max_size=6),
)
def test_the_chances_of_all_candidates_add_up(policy: str, pairs: list[tuple[float, float]]) -> None:
    odds = chances(policy, pairs)
    assert sum(odds) == pytest.approx(1)
    assert all(0 <= chance <= 1 + 1e-9 for chance in odds)


def test_no_candidates_have_no_chances() -> None:
    assert [chances(policy, []) for policy in [*POLICIES, ""]] == [[]] * 6


def test_a_candidate_without_speed_has_a_score_and_a_chance() -> None:
    assert chances("shortest_queue", [(0.0, 0.0), (1.0, 2.0)]) == [1.0, 0.0]
    assert chances("lottery", [(0.0, 0.0), (0.0, 0.0)]) == [0.5, 0.5]


def as_json(route: Route) -> dict[str, Any]:
    """The response of `GET /route`."""
    body: dict[str, Any] = msgspec.to_builtins(route)
    return body


def explained(table: Table, name: str = "m", api: Api = "openai") -> dict[str, Any]:
    return as_json(explain(decode(TreeView(table, table.clock).tree()), name, api))


def reasons(route: dict[str, Any], level: int = 0) -> dict[str, str]:
    return {item["name"]: item["reason"] for item in route["levels"][level]["passed_over"]}


def leaf(name: str, state: str = "up", queue_length: int = 0, speed: float = 1.0, **fields: Any) -> dict[str, Any]:
    row = {"name": "m", "api": "openai", "speed": speed, "queue_length": queue_length, "slots": 0}
    return {"name": name, "kind": "vllm", "state": state, "models": [row], "children": {}, **fields}


NO_TERMS = {
    "hit_rate": None,
    "engine_hit_rate": None,
    "match": None,
    "pending": 0,
    "slots": 0,
    "busy": 0.0,
    "round_trip_s": None,
    "tier": None,
    "wait_s": None,
    "cost": 0.0,
    "load_s": 0.0,
}


def tiered(load: int, policy: str = "shortest_queue") -> dict[str, Any]:
    """The route at a node that prefers `near` with its 4 slots and this load to `far`, which is 50 ms away."""
    table = Table()
    table.identity = msgspec.structs.replace(table.identity, dispatch=policy)
    for name, queue_length in (("far", 0), ("near", load)):
        engine = table.declare(name, f"http://{name}:1", "vllm")
        table.report(engine, status_of(model(queue_length=queue_length, slots=4)))
    table.children["far"].round_trip.note(0.05, 0.0)
    tiers = Tiers([["near"]], 2.0)
    route = explain(decode(TreeView(table, table.clock, tiers=lambda: tiers).tree()), "m", "openai")
    level: dict[str, Any] = as_json(route)["levels"][0]
    return level


@pytest.mark.parametrize("policy", POLICIES)
def test_the_tier_that_is_used_and_the_waits_are_shown(policy: str) -> None:
    near, far = tiered(3, policy)["candidates"]
    assert (near["name"], near["tier"], near["wait_s"], near["chance"]) == ("near", 1, 0, 1)
    assert (far["name"], far["tier"], far["wait_s"], far["chance"]) == ("far", 2, 0.05, 0)
    assert far["round_trip_s"] == 0.05


@pytest.mark.parametrize("policy", POLICIES)
def test_the_next_tier_is_shown_where_the_wait_is_too_long(policy: str) -> None:
    level = tiered(4, policy)
    assert level["next"] == "far"
    assert [(one["name"], one["wait_s"], one["chance"]) for one in level["candidates"]] == [
        ("far", 0.05, 1),
        ("near", 2.5, 0),
    ]


def prefix_table() -> Table:
    """Two engines below a node that chooses by prefix; `a` has a request in one of its 8 slots."""
    table = Table()
    table.identity = msgspec.structs.replace(table.identity, dispatch="prefix")
    for name, queue_length in (("a", 1), ("b", 0)):
        engine = table.declare(name, f"http://{name}:1", "vllm")
        table.report(engine, status_of(model(queue_length=queue_length, slots=8)))
    return table


@pytest.mark.parametrize(
    ("known", "chosen", "reason"),
    [
        (None, "b", ""),
        (Known(4000, {"a": 4000}), "a", "match"),
        (Known(4000, {"a": 4000, "b": 4000}), "b", "match"),
        (Known(4000, {"a": 300}), "b", "spread"),
        (Known(4000, {}), "b", "no_match"),
        (Known(4000, {"b": 4000}, "a"), "a", "sticky"),
    ],
)
def test_a_prompt_goes_where_the_policy_would_send_it(known: Known | None, chosen: str, reason: str) -> None:
    table = prefix_table()
    level = explain(decode(TreeView(table, table.clock).tree()), "m", "openai", "", known).levels[0]
    assert (level.next, level.reason) == (chosen, reason)
    for one in level.candidates:
        assert one.match == (None if known is None else known.matches.get(one.name, 0))
        assert one.slots == 8
        shared = 4000 if known is not None and len(known.matches) == 2 else 0  # both have it
        assert one.cost == 1200 * FULL * one.load / 8 - 2 * max(0, (one.match or 0) - shared)


def test_the_answer_of_the_next_node_replaces_what_was_guessed() -> None:
    table = prefix_table()
    below = explain(decode(TreeView(table, table.clock).tree()), "m", "openai")
    guessed = Level("root", next="site")
    route = with_answer(Route("m", "m", "openai", [guessed, Level("site")], "site/x"), below)
    assert route.levels == [guessed, *below.levels]
    assert route.path == "site/b"
    assert with_answer(route, Route("m", "m", "openai")).path == ""


def test_each_level_down_to_an_engine() -> None:
    table = Table()
    engine = table.declare("slow", "http://slow:1", "vllm")
    table.report(engine, status_of(model(queue_length=4)))
    below = {"a": leaf("a", queue_length=3), "b": leaf("b", queue_length=1, speed=2.0)}
    table.add(site("site", model(speed=3.0, queue_length=4), children=below, dispatch="shortest_queue"))
    table.children["site"].reverse = True
    route = explained(table)
    assert (route["model"], route["api"], route["path"]) == ("m", "openai", "site/b")
    first, second = route["levels"]
    assert (first["node"], first["next"], second["node"], second["dispatch"]) == (
        "root",
        "site",
        "site",
        "shortest_queue",
    )
    assert first["candidates"] == [
        {
            "name": "slow",
            "kind": "vllm",
            "link": "direct",
            "load": 4,
            "speed": 1.0,
            "score": 4.0,
            "chance": 0.0,
            "error_rate": 0.0,
            "penalty": 0,
            "labels": {},
            **NO_TERMS,
        },
        {
            "name": "site",
            "kind": "node",
            "link": "reverse",
            "load": 4,
            "speed": 3.0,
            "score": 4 / 3,
            "chance": 1.0,
            "error_rate": 0.0,
            "penalty": 0,
            "labels": {},
            **NO_TERMS,
        },
    ]
    assert [(item["name"], item["score"], item["chance"]) for item in second["candidates"]] == [
        ("a", 3.0, 0.0),
        ("b", 0.5, 1.0),
    ]


def test_open_leases_of_this_node_count_at_once() -> None:
    table = Table()
    for name in "ab":
        table.report(table.declare(name, f"http://{name}:1", "vllm"), status_of(model()))
    assert [item["chance"] for item in explained(table)["levels"][0]["candidates"]] == [0.5, 0.5]
    share = table.children["a"].shares[OPENAI]
    lease = table.children["a"].lease(share)
    assert explained(table)["path"] == "b"
    lease.release()


def test_a_child_that_fails_is_shown_with_its_error_rate_and_a_longer_load() -> None:
    table = Table()
    for name in "abc":
        table.report(table.declare(name, f"http://{name}:1", "vllm"), status_of(model()))
    table.failed(table.children["a"].shares[OPENAI], "error", "answered 500")
    first, *others = explained(table)["levels"][0]["candidates"]
    assert (first["error_rate"], first["chance"]) == (1.0, 0.0)
    assert [other["chance"] for other in others] == [0.5, 0.5]
    for _ in range(2):
        table.failed(table.children["a"].shares[OPENAI], "error", "answered 500")
    assert reasons(explained(table))["a"] == "m is ejected there: answered 500"


def test_a_suspect_is_a_candidate_only_where_nothing_better_is_left() -> None:
    table = Table()
    for name in "ab":
        table.report(table.declare(name, f"http://{name}:1", "vllm"), status_of(model()))
    table.suspect(table.children["a"], "late")
    route = explained(table)
    assert (route["path"], reasons(route)) == ("b", {"a": "suspect: late"})
    table.mark_down(table.children["b"], "refused")
    assert explained(table)["path"] == "a"


def test_each_reason_for_which_a_child_is_passed_over() -> None:
    table = Table()
    table.report(table.declare("good", "http://good:1", "vllm"), status_of(model()))
    table.report(table.declare("other", "http://other:1", "vllm"), status_of(model("n")))
    for name in ("down", "ejected", "draining", "starting"):
        table.report(table.declare(name, f"http://{name}:1", "vllm"), status_of(model()))
    table.mark_down(table.children["down"], "refused")
    eject(table, table.children["ejected"], 2.0, "cannot be reached")
    table.set_drain("draining", Drain(by="ann", reason="new GPU"))
    table.declare("new", "http://new:1", "vllm")
    table.add(worker(models=["m"]))
    table.add(site("held", model("n"), children={"gpu": leaf("gpu", "down", detail="dead")}))
    table.add(site("left", model(), children={"gpu": leaf("gpu")}))
    table.depart("left")
    route = explained(table)
    given = reasons(route)
    assert route["path"] in ("good", "starting")
    assert given["other"] == given["new"] == "does not serve m"
    assert given["down"] == "down: refused"
    assert given["ejected"] == "ejected: cannot be reached"
    assert given["draining"] == "draining: by ann: new GPU"
    assert given["http://w1:21002"] == (
        "serves m through the fastchat API only; other children serve it through the openai API"
    )
    assert given["held"] == "no engine below it can take m now: gpu is down (dead)"
    assert given["left"].startswith("gone: left ")


def test_the_other_api_family_if_no_child_is_available_through_the_requested_one() -> None:
    table = Table()
    table.add(worker(models=["m"]))
    route = explained(table)
    assert (route["api"], route["levels"][0]["api"], route["path"]) == ("openai", "fastchat", "http://w1:21002")
    assert route["levels"][0]["passed_over"] == []


def test_a_silent_node_is_passed_over() -> None:
    table = Table()
    table.add(site("site", model(), children={"gpu": leaf("gpu")}))
    table.clock.tick(3)
    route = explained(table)
    assert (route["path"], reasons(route)) == ("", {"site": "silent: no report for 3 s"})
    table.receive(report("site", model(), seq=3))
    assert explained(table)["path"] == "site/gpu"


def test_many_unavailable_engines_are_counted() -> None:
    table = Table()
    table.add(site("site", model("n"), children={f"g{n}": leaf(f"g{n}", "down") for n in range(5)}))
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
    assert explain(decode(tree), "m", "openai").path == ""


def test_a_child_without_a_name_does_not_end_the_path() -> None:
    route = explain(decode({"kind": "node", "children": {"": leaf("", "down")}}), "m", "openai")
    assert (route.path, len(route.levels)) == ("", 1)


def test_a_tree_that_contains_itself_is_followed_to_a_limit() -> None:
    row = {"name": "m", "api": "openai", "speed": 1.0, "queue_length": 0}
    entry: dict[str, Any] = {"kind": "node", "name": "x", "state": "up", "models": [row], "children": {}}
    entry["children"]["x"] = entry
    assert len(explain(decode(entry), "m", "openai").levels) == 64


def test_pending_bytes_count_where_the_policy_is_prefix() -> None:
    row: dict[str, Any] = {"name": "m", "api": "openai", "speed": 1.0, "queue_length": 0}
    children = {
        "busy": {"name": "busy", "kind": "vllm", "state": "up", "models": [{**row, "pending": 5000}]},
        "free": {"name": "free", "kind": "vllm", "state": "up", "models": [{**row, "queue_length": 1}]},
    }
    for policy, expected in (("prefix", "free"), ("shortest_queue", "busy")):
        tree = decode({"name": "root", "kind": "node", "state": "up", "dispatch": policy, "children": children})
        level = explain(tree, "m", "openai").levels[0]
        assert level.next == expected
        costs = {one.name: one.cost for one in level.candidates}
        assert costs == ({"busy": 5000.0, "free": 1200.0} if policy == "prefix" else {"busy": 0.0, "free": 0.0})
