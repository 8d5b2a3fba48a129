"""Entries of `/tree` are decoded into records: completely if they are well-formed, as far as possible if not."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.balancing.tiers import Tiers
from hierarchy.introspection.tree import TreeView
from hierarchy.registry.drain import Drain
from hierarchy.wire import tree_entry
from hierarchy.wire.status import NodeStatus
from hierarchy.wire.tree_entry import MAX_DEPTH, DrainEntry, ModelEntry, TreeEntry, decode
from tests.builders import OPENAI, WORKER, Table, model, nested, site, status_of, worker
from tests.wire.test_subtree import SITES

anything = nested(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(st.characters(), max_size=3)
)
FIELDS = [*tree_entry._ENTRY_TYPES]
amounts = st.none() | st.floats(0, 1e300)
counts = st.none() | st.integers(0, 2**63 - 1)
texts = st.text(max_size=5)
model_entries = st.builds(
    ModelEntry, st.text(min_size=1, max_size=5), st.sampled_from(["openai", "fastchat", "new"]), amounts, counts
)
entries = st.builds(
    TreeEntry,
    name=st.text(min_size=1, max_size=5),
    kind=st.sampled_from(["node", "vllm"]),
    url=texts,
    link=st.sampled_from(["direct", "reverse"]),
    state=st.sampled_from(["up", "down"]),
    detail=texts,
    speed=amounts,
    queue_length=counts,
    in_flight=counts,
    drain=st.none() | st.builds(DrainEntry, st.floats(0, 1e10), texts, texts),
    models=st.lists(model_entries, max_size=3).map(tuple),
    raw_children=st.dictionaries(texts, anything, max_size=2),
)


def as_json(entry: TreeEntry) -> dict[str, Any]:
    """The JSON object that an entry was decoded from; an unknown number is left out."""
    fields = {field: getattr(entry, field) for field in FIELDS if field not in ("models", "children")}
    fields["drain"] = entry.drain and msgspec.structs.asdict(entry.drain)
    models = [{field: getattr(row, field) for field in row.__struct_fields__} for row in entry.models]
    return {**known(fields), "models": [known(row) for row in models], "children": entry.raw_children}


def known(fields: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in fields.items() if value is not None}


def test_every_field_that_a_node_shows_is_decoded() -> None:
    table = Table()
    engine = table.declare("gpu", "http://gpu:1", "vllm")
    table.report(engine, status_of(model(speed=4, queue_length=2, slots=8)))
    engine.round_trip.note(0.02, table.clock())
    lease = engine.lease(engine.shares[OPENAI])
    table.add(site("site-a", children={"rack-gpu": {"kind": "vllm", "state": "up"}}, version="1.2", dispatch="p2c"))
    table.children["site-a"].warnings = ["the certificate expires on 2026-01-31"]
    table.declare_labels({"gpu": {"region": "eu"}})
    sleeper = table.declare("sleeper", "http://gpu:2", "vllm")
    table.report(
        sleeper, NodeStatus((model("n", load_s=5.0, prefill=4000.0, decode=25.0),), 1.0, asleep=True, wakes=True)
    )
    table.set_drain("gpu", Drain(5.0, "ann", "new GPU"))
    table.add(worker())
    tiers = Tiers([["gpu"]], 2.0)
    shown = TreeView(table, table.clock, tiers=lambda: tiers).tree()
    root = decode(json.loads(json.dumps(shown)))
    assert {field for entry in (shown, *shown["children"].values()) for field in entry} == set(FIELDS)
    assert (root.name, root.kind, root.url, root.state, root.is_node) == ("root", "node", shown["url"], "up", True)
    assert (root.speed, root.queue_length, root.in_flight, root.instance) == (3.0, 0, 1, "root-1")
    gpu, site_a = root.children["gpu"], root.children["site-a"]
    assert gpu.models == (ModelEntry("m", "openai", 4.0, 3, 8, wait_s=0.02),)
    assert (gpu.round_trip_s, gpu.tier, gpu.spill_after_s, site_a.tier) == (0.02, 1, 2.0, 2)
    assert (gpu.state, gpu.drain) == ("draining", DrainEntry(5.0, "ann", "new GPU"))
    assert (gpu.kind, gpu.link, gpu.is_node, gpu.children) == ("vllm", "direct", False, {})
    assert (site_a.version, site_a.dispatch, site_a.instance) == ("1.2", "p2c", "site-a-1")
    assert [path for path, _ in root.engines()] == ["gpu", "site-a/rack-gpu", "sleeper", WORKER]
    assert [path for path, _ in root.engines(up=True)] == ["site-a/rack-gpu", "sleeper", WORKER]
    assert root.children["sleeper"].models == (
        ModelEntry("n", "openai", 1.0, 0, load_s=10.0, prefill=4000.0, decode=25.0, wait_s=10.0),
    )
    assert root.children[WORKER].label == table.labels.of(WORKER)
    lease.release()


@given(entries)
def test_a_well_formed_entry_is_decoded_without_loss(entry: TreeEntry) -> None:
    assert decode(as_json(entry)) == entry


@given(entries, st.sampled_from(FIELDS), anything)
def test_a_malformed_field_affects_no_other_field(entry: TreeEntry, spoilt: str, junk: Any) -> None:
    decoded = decode({**as_json(entry), spoilt: junk, "future_field": junk})
    for field in entry.__struct_fields__:
        if field != {"children": "raw_children"}.get(spoilt, spoilt):
            assert getattr(decoded, field) == getattr(entry, field)


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(st.characters(), max_size=2), anything))
def test_any_json_object_is_decoded(raw: dict[str, Any]) -> None:
    entry = decode(raw, "key")
    assert entry.name
    for number in (entry.speed, entry.queue_length, entry.in_flight):
        assert number is None or (math.isfinite(number) and number >= 0)
    for path, engine in entry.engines():
        assert isinstance(path, str)
        assert not engine.is_node
        engine.serves("m", "openai")
    list(entry.engines(up=True))


@pytest.mark.parametrize(
    ("field", "value", "default"),
    [
        ("name", 7, "key"),
        ("name", "", "key"),
        ("kind", None, "?"),
        ("state", "", "?"),
        ("link", ["reverse"], "direct"),
        ("detail", {}, ""),
        ("url", 7, ""),
        ("speed", True, None),
        ("speed", math.nan, None),
        ("speed", math.inf, None),
        ("speed", -1, None),
        ("speed", 10**400, None),
        ("queue_length", "3", None),
        ("queue_length", 10**400, None),
        ("in_flight", 1.5, None),
        ("models", {"name": "m"}, ()),
        ("children", ["a"], {}),
    ],
)
def test_a_malformed_field_has_its_default(field: str, value: Any, default: Any) -> None:
    assert getattr(decode({field: value}, "key"), field) == default


def test_a_model_keeps_what_is_well_formed_of_it() -> None:
    rows = ["m", {}, {"name": ""}, {"name": "m", "speed": "fast", "queue_length": 2}, {"name": "n", "api": None}]
    models = decode({"models": rows}).models
    assert models == (ModelEntry("m", queue_length=2), ModelEntry("n"))


def test_a_child_that_is_not_an_object_is_left_out() -> None:
    entry = decode({"children": {"a": {}, "b": None, "c": [], 4: {"kind": "vllm"}}})
    assert [child.name for child in entry.children.values()] == ["a", "4"]


def test_children_are_decoded_once_and_only_when_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def counted(raw: Any, key: str = "?") -> TreeEntry:
        decoded.append(key)
        return decode(raw, key)

    entry = decode({"kind": "node", "children": {"a": {"kind": "node", "children": {"b": {}}}}})
    monkeypatch.setattr(tree_entry, "decode", counted)
    for _ in range(2):
        assert entry.children["a"].raw_children == {"b": {}}
    assert decoded == ["a"]


TREE = decode({"children": SITES})


def test_engines_have_their_path() -> None:
    assert [path for path, _ in TREE.engines()] == ["site-a/gpu-1", "site-a/gpu-2", "site-b/gpu-1", "gpu-0"]


def test_an_engine_below_a_silent_node_is_not_up() -> None:
    assert [path for path, _ in TREE.engines(up=True)] == ["site-a/gpu-1", "gpu-0"]


def test_an_entry_serves_a_model_in_one_api_family_or_in_any() -> None:
    gpu = dict(TREE.engines())["site-a/gpu-2"]
    assert gpu.serves("n")
    assert gpu.serves("n", "fastchat")
    assert not gpu.serves("n", "openai")
    assert not gpu.serves("m")


def test_a_tree_that_contains_itself_is_followed_to_a_limit() -> None:
    loop: dict[str, Any] = {"kind": "node", "children": {"gpu": {"kind": "vllm"}}}
    loop["children"]["loop"] = loop
    assert len(list(decode(loop).engines())) == MAX_DEPTH + 1
