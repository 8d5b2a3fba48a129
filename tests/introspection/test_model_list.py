"""`GET /v1/models`: what is listed, and that a large tree costs one pass, once."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hierarchy.balancing.aliases import Aliases
from hierarchy.config.model_names import Target
from hierarchy.introspection.model_list import AT_ONCE, MAX_AGE_S, ModelList
from tests.builders import FASTCHAT, WORKER, Table, eject, model, report, site, status_of, worker

GPU = {"kind": "vllm", "state": "up", "models": [{"name": "m", "api": "openai"}]}


def shown(table: Table) -> dict[str, list[str]]:
    """/v1/models: model -> engines that serve it."""
    listed = ModelList(table, table.clock, 1234)
    assert json.loads(listed.encoded()) == {"object": "list", "data": list(listed.rows().values())}
    for name, row in listed.rows().items():
        assert (row["id"], row["object"], row["created"], row["owned_by"]) == (name, "model", 1234, "hierarchy")
    return {name: row["served_by"] for name, row in listed.rows().items()}


def apis(table: Table) -> dict[str, list[str]]:
    """model -> API families through which it is served"""
    return {name: row["apis"] for name, row in ModelList(table, table.clock, 1234).rows().items()}


def test_an_empty_node_lists_nothing() -> None:
    assert shown(Table()) == {}


def test_models_are_listed_with_the_paths_that_serve_them() -> None:
    table = Table()
    engine = table.declare("gpu", "http://gpu:1", "vllm")
    table.report(engine, status_of(model(), model("n")))
    below: dict[str, Any] = {"kind": "node", "state": "up", "children": {"gpu-1": GPU, "gpu-2": {**GPU, "models": []}}}
    table.add(site(children={"rack": below, "gpu-3": {**GPU, "state": "down"}}))
    table.add(worker())
    assert shown(table) == {"m": ["gpu", "site-a/rack/gpu-1", table.labels.of(WORKER)], "n": ["gpu"]}
    assert apis(table) == {"m": ["fastchat", "openai"], "n": ["openai"]}


def test_an_unavailable_child_serves_no_model() -> None:
    table = Table()
    engine = table.declare("gpu", "http://gpu:1", "vllm")
    table.report(engine, status_of(model()))
    table.add(site("site-a", children={"gpu-1": GPU}))
    worker_child = table.add(worker(models=["m", "w"]))
    assert shown(table)["m"] == ["gpu", "site-a/gpu-1", table.labels.of(WORKER)]
    table.clock.tick(3)  # site-a is silent, so its last report, in which gpu-1 was up, no longer counts
    assert shown(table)["m"] == ["gpu", table.labels.of(WORKER)]
    eject(table, worker_child, 10.0, "broke")
    assert shown(table) == {
        "m": ["gpu", table.labels.of(WORKER)],
        "w": [table.labels.of(WORKER)],
    }  # an ejected engine is the last resort
    assert apis(table) == {"m": ["fastchat", "openai"], "w": ["fastchat"]}
    assert not table.available(FASTCHAT)


def test_the_list_is_made_once_until_something_changes() -> None:
    table = Table()
    engine = table.declare("gpu", "http://gpu:1", "vllm")
    table.report(engine, status_of(model()))
    listed = ModelList(table, table.clock, 0)
    first = listed.rows()
    encoded = listed.encoded()
    assert listed.rows() is first
    assert listed.encoded() is encoded
    table.report(engine, status_of(model(), model("n")))
    assert set(listed.rows()) == {"m", "n"}
    table.add(site("site-a", children={"gpu-1": GPU}))
    assert listed.rows()["m"]["served_by"] == ["gpu", "site-a/gpu-1"]
    table.receive(report("site-a", children={"gpu-1": {"state": "down"}}))
    assert listed.rows()["m"]["served_by"] == ["gpu"]


def test_a_child_that_falls_silent_leaves_the_list_without_an_event() -> None:
    table = Table()
    table.add(site("site-a", children={"gpu-1": GPU}))
    listed = ModelList(table, table.clock, 0)
    assert set(listed.rows()) == {"m"}
    table.clock.tick(3 + MAX_AGE_S)
    assert listed.rows() == {}


def test_a_name_costs_the_same_in_a_long_list_as_in_a_short_one() -> None:
    """Each engine is looked at once, however many models there are."""
    calls: list[None] = []

    class Counted(Table):
        def __iter__(self) -> Any:
            calls.append(None)
            return super().__iter__()

    table = Counted()
    for number in range(50):
        engine = table.declare(f"e{number}", f"http://e{number}:1", "vllm")
        table.report(engine, status_of(model(f"m{number}")))
    calls.clear()
    assert len(ModelList(table, table.clock, 0).rows()) == 50
    assert len(calls) <= 2


def test_only_rows_that_differ_are_made_again() -> None:
    table = Table()
    engine = table.declare("gpu", "http://gpu:1", "vllm")
    table.report(engine, status_of(*[model(f"m{number}") for number in range(2 * AT_ONCE)]))
    listed = ModelList(table, table.clock, 0)
    before = dict(listed.rows())
    table.add(worker(models=["m7"]))
    after = listed.rows()
    assert [name for name, row in after.items() if row is not before[name]] == ["m7"]
    assert (after["m7"]["apis"], after["m7"]["served_by"]) == (["fastchat", "openai"], ["gpu", table.labels.of(WORKER)])
    assert before["m7"]["served_by"] == ["gpu"]  # a response that is being written has it


def test_a_model_that_gets_the_name_of_an_alias_is_none() -> None:
    table = Table()
    engine = table.declare("gpu", "http://gpu:1", "vllm")
    table.report(engine, status_of(model()))
    listed = ModelList(table, table.clock, 0, Aliases({"a": [Target(model="m")]}, Random(1)))
    assert listed.rows()["a"]["alias_of"] == ["m"]
    table.report(engine, status_of(model(), model("a")))
    assert "alias_of" not in listed.rows()["a"]


def test_an_engine_is_listed_once_however_a_path_leads_to_it() -> None:
    table = Table()
    both = [model("m"), model("m", api="fastchat")]
    table.report(table.declare("gpu", "http://gpu:1", "vllm"), status_of(*both))
    for number in (1, 2):
        url, instance = f"http://site-{number}:1", f"i-{number}"
        table.add(site("site", *both, url=url, instance=instance, path=[instance], replica=True, children={"g": GPU}))
    assert shown(table) == {"m": ["gpu", "site/g"]}
