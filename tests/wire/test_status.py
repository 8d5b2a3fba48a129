"""Sums of statuses: totals and per model, in any grouping and order."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.wire.status import EMPTY, MAX_QUEUE, ModelStatus, NodeStatus, aggregate, shorter

# Whole speeds, whose sums are exact in any order.
speeds = st.integers(1, 1000).map(float)
queues = st.integers(0, 1000) | st.integers(MAX_QUEUE - 3, MAX_QUEUE)
models = st.builds(ModelStatus, st.sampled_from("abc"), st.sampled_from(["openai", "fastchat"]), speeds, queues, queues)
statuses = st.builds(
    NodeStatus, st.lists(models, max_size=4, unique_by=lambda model: model.key).map(tuple), speeds, queues
)
several = st.lists(statuses, max_size=5)


@given(several, several)
def test_sums_of_sums_are_the_sum(left: list[NodeStatus], right: list[NodeStatus]) -> None:
    assert aggregate([aggregate(left), aggregate(right)]) == aggregate([*left, *right])


@given(several, st.randoms(use_true_random=False))
def test_the_order_of_children_does_not_matter(children: list[NodeStatus], rng: object) -> None:
    shuffled = list(children)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert aggregate(shuffled) == aggregate(children)


@given(several)
def test_totals_and_models_balance(children: list[NodeStatus]) -> None:
    total = aggregate(children)
    assert total.speed == sum(child.speed for child in children)
    assert total.queue_length == min(sum(child.queue_length for child in children), MAX_QUEUE)
    assert len({model.key for model in total.models}) == len(total.models)
    parts = [model for child in children for model in child.models]
    assert {model.key for model in parts} == {model.key for model in total.models}
    for model in total.models:
        same = [part for part in parts if part.key == model.key]
        assert model.speed == sum(part.speed for part in same)
        assert model.queue_length == min(sum(part.queue_length for part in same), MAX_QUEUE)
        known = all(part.slots for part in same)
        assert model.slots == (min(sum(part.slots for part in same), MAX_QUEUE) if known else 0)


def test_a_site_is_not_faster_for_a_model_than_the_gpus_that_serve_it() -> None:
    ten = [NodeStatus((ModelStatus("big"),), 1.0)] * 10
    one = NodeStatus((ModelStatus("small"),), 1.0)
    assert [(model.name, model.speed) for model in aggregate([*ten, one]).models] == [("big", 10.0), ("small", 1.0)]


def test_a_node_without_children_has_an_empty_status() -> None:
    assert aggregate([]) == EMPTY == aggregate([EMPTY, EMPTY])


def test_a_model_served_through_both_families_is_listed_once() -> None:
    status = NodeStatus((ModelStatus("b"), ModelStatus("a", "fastchat"), ModelStatus("a", "openai")), 2.0, 3)
    assert status.model_names == ["a", "b"]
    assert status.fastchat() == {"model_names": ["a", "b"], "speed": 2.0, "queue_length": 3}


def test_a_shorter_queue_is_all_that_changes() -> None:
    model = ModelStatus("m", "openai", 2.0, 5, slots=4, avoid=True, load_s=1.0, prefill=3.0, decode=4.0)
    status = NodeStatus((model,), 2.0, 5, asleep=True, wakes=True, waiting=1, prompt_tokens={"m": (1.0, 2.0)})
    found = shorter(status, 2)
    assert (found.queue_length, found.models[0].queue_length) == (3, 3)
    replace = msgspec.structs.replace
    assert replace(found, queue_length=5, models=(replace(found.models[0], queue_length=5),)) == status
    assert shorter(status, 9).queue_length == shorter(status, 9).models[0].queue_length == 0
