"""From a model's name to a child: which one is chosen, and the error if none can be."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.balancing.policy import POLICIES
from hierarchy.errors import ModelNotFound, Unavailable
from hierarchy.registry import Registry
from hierarchy.registry.drain import Drain
from hierarchy.registry.known_models import KNOWN_S
from hierarchy.wire.messages import Identity
from tests.builders import OPENAI, eject, model, registration, site, status_of, worker
from tests.clocks import Clock


class Tree:
    """A registry with engines a and b that serve `m`, and a dispatch over it."""

    def __init__(self, policy: str = "shortest_queue") -> None:
        self.clock = Clock()
        self.registry = Registry(Identity("root", "http://root:21001", "root-1"), self.clock)
        self.dispatch = Dispatch(self.registry, policy, Random(7))
        self.a, self.b = (self.registry.declare(name, f"http://{name}:1", "vllm") for name in "ab")
        for child in (self.a, self.b):
            self.registry.report(child, status_of(model()))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_spreads_leases_and_counts_them(policy: str) -> None:
    tree = Tree(policy)
    leases = [tree.dispatch.lease(OPENAI) for _ in range(100)]
    assert tree.a.in_flight + tree.b.in_flight == 100
    assert min(tree.a.in_flight, tree.b.in_flight) > 25
    for lease in leases:
        lease.release()
        lease.release()
    assert (tree.a.in_flight, tree.b.in_flight, tree.a.load(OPENAI), tree.b.load(OPENAI)) == (0, 0, 0, 0)


def test_choosing_counts_no_lease() -> None:
    tree = Tree()
    tree.dispatch.choose(OPENAI)
    assert tree.a.in_flight + tree.b.in_flight == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_child_that_was_tried_is_not_chosen_again(policy: str) -> None:
    tree = Tree(policy)
    for _ in range(20):
        assert tree.dispatch.choose(OPENAI, [tree.a]).child is tree.b
        assert tree.dispatch.choose(OPENAI, {tree.b}).child is tree.a
    with pytest.raises(Unavailable, match="every child that serves model 'm' failed"):
        tree.dispatch.choose(OPENAI, [tree.a, tree.b])


def test_an_unknown_model_is_not_found_and_the_error_names_the_models_here() -> None:
    tree = Tree()
    with pytest.raises(ModelNotFound, match=r"'nope'; models here: m$") as caught:
        tree.dispatch.lease(("nope", "openai"))
    assert (caught.value.status, caught.value.param) == (404, "model")


@pytest.mark.parametrize(
    ("usable", "known"),
    [
        (frozenset({"nope", "m"}), "models here: m"),
        (frozenset({"nope"}), "GET /v1/models lists what you may use"),
        (frozenset(), "GET /v1/models lists what you may use"),
        (None, "models here: m"),
    ],
)
def test_the_error_names_only_models_that_the_caller_may_use(usable: frozenset[str] | None, known: str) -> None:
    assert str(Tree().dispatch.not_found("nope", usable)) == f"no child serves model 'nope'; {known}"


def test_the_error_names_no_models_at_a_node_without_models() -> None:
    tree = Tree()
    tree.registry.sweep()
    for child in (tree.a, tree.b):
        tree.registry.report(child, status_of())
    tree.clock.tick(KNOWN_S)
    with pytest.raises(ModelNotFound, match=r"models here: none at the moment$"):
        tree.dispatch.lease(OPENAI)


def test_many_models_are_not_all_named_and_a_long_name_is_cut() -> None:
    tree = Tree()
    tree.registry.report(tree.a, status_of(*(model(f"m{number:02}") for number in range(50))))
    with pytest.raises(ModelNotFound, match=r"m09, \.\.\.|m08, \.\.\.") as caught:
        tree.dispatch.lease(("x" * 10**6, "openai"))
    assert len(str(caught.value)) < 500


def test_the_error_names_the_api_family_that_serves_the_model() -> None:
    tree = Tree()
    with pytest.raises(ModelNotFound, match="through the openai API only, not through fastchat's"):
        tree.dispatch.lease(("m", "fastchat"))


@pytest.mark.parametrize("how", ["down", "draining", "silent"])
def test_a_model_that_is_served_but_not_now_is_unavailable(how: str) -> None:
    tree = Tree()
    registry = tree.registry
    registry.remove("b")
    registry.remove("a")
    if how == "silent":
        registry.register(registration(site()))
        tree.clock.tick(3.0)
    else:
        child = registry.declare("a", "http://a:1", "vllm")
        registry.report(child, status_of(model()))
        if how == "down":
            registry.mark_down(child, "refused")
        else:
            registry.set_drain(child.name, Drain())
    with pytest.raises(Unavailable, match="is served here, but no child") as caught:
        tree.dispatch.lease(OPENAI)
    assert (caught.value.status, caught.value.retry_after_s) == (503, 3 if how == "silent" else 1)
    with pytest.raises(Unavailable):
        tree.dispatch.hand_out("m")


def test_a_model_that_is_down_two_levels_below_is_unavailable() -> None:
    tree = Tree()
    below = {"gpu": {"kind": "vllm", "state": "down", "models": [{"name": "deep", "api": "openai"}]}}
    message = site(children={"rack": {"kind": "node", "state": "up", "children": below}})
    tree.registry.register(registration(message))
    with pytest.raises(Unavailable):
        tree.dispatch.lease(("deep", "openai"))
    with pytest.raises(ModelNotFound, match="openai API only"):
        tree.dispatch.lease(("deep", "fastchat"))


def test_the_other_api_family_is_used_if_no_child_is_available_through_the_requested_one() -> None:
    tree = Tree()
    tree.registry.register(registration(worker(models=["m", "only"])))
    assert tree.dispatch.choose(("only", "openai"), translated=True).key == ("only", "fastchat")
    assert {tree.dispatch.choose(OPENAI, translated=True).child for _ in range(10)} == {tree.a, tree.b}
    assert tree.dispatch.choose(OPENAI, [tree.a, tree.b], translated=True).key == ("m", "fastchat")
    with pytest.raises(ModelNotFound, match="fastchat API only"):
        tree.dispatch.choose(("only", "openai"))


def test_the_error_if_no_child_is_available_through_either_family() -> None:
    tree = Tree()
    with pytest.raises(ModelNotFound, match="no child serves model 'nope'"):
        tree.dispatch.choose(("nope", "openai"), translated=True)
    for child in (tree.a, tree.b):
        tree.registry.set_drain(child.name, Drain())
    with pytest.raises(Unavailable, match="no child that serves it is available"):
        tree.dispatch.choose(("m", "fastchat"), translated=True)  # the error is that of the family that is served
    with pytest.raises(Unavailable, match="no child that serves it is available"):
        tree.dispatch.choose(("m", "openai"), translated=True)


def test_an_ejected_child_is_better_than_none() -> None:
    tree = Tree()
    eject(tree.registry, tree.a, 5.0, "broke")
    assert {tree.dispatch.choose(OPENAI).child for _ in range(10)} == {tree.b}
    assert tree.dispatch.choose(OPENAI, [tree.b]).child is tree.a
    tree.registry.mark_down(tree.b, "refused")
    assert tree.dispatch.choose(OPENAI).child is tree.a
    with pytest.raises(Unavailable, match="every child that serves model 'm' failed"):
        tree.dispatch.choose(OPENAI, [tree.a])


def test_an_ejected_child_comes_back_by_itself() -> None:
    tree = Tree("round_robin")
    eject(tree.registry, tree.a, 5.0, "broke")
    assert {tree.dispatch.choose(OPENAI).child for _ in range(10)} == {tree.b}
    tree.clock.tick(5.0)
    assert {tree.dispatch.choose(OPENAI).child for _ in range(10)} == {tree.a, tree.b}


def test_a_change_of_speed_changes_the_draw() -> None:
    tree = Tree("lottery")
    assert 400 < sum(tree.dispatch.choose(OPENAI).child is tree.a for _ in range(1000)) < 600
    tree.registry.report(tree.a, status_of(model(speed=99)))
    assert sum(tree.dispatch.choose(OPENAI).child is tree.a for _ in range(1000)) > 970


def test_a_child_that_registers_or_leaves_counts_at_once() -> None:
    tree = Tree("round_robin")
    tree.registry.register(registration(site()))
    children = Counter(tree.dispatch.choose(OPENAI).child.name for _ in range(30))
    assert children == {"a": 10, "b": 10, "site-a": 10}
    tree.registry.remove("a")
    assert {tree.dispatch.choose(OPENAI).child.name for _ in range(30)} == {"b", "site-a"}


def test_handed_out_addresses_spread_without_any_report() -> None:
    tree = Tree()
    handed = Counter(share.child.name for share in (tree.dispatch.hand_out("m") for _ in range(10)))
    assert handed == {"a": 5, "b": 5}
    assert (tree.a.in_flight, tree.a.load(OPENAI)) == (0, 5)


def test_addresses_of_fastchat_workers_are_preferred() -> None:
    tree = Tree()
    child = tree.registry.register(registration(worker()))
    assert {share.child for share in (tree.dispatch.hand_out("m") for _ in range(10))} == {child}
    with pytest.raises(ModelNotFound):
        tree.dispatch.hand_out("nope")


def test_unknown_model_names_are_not_kept() -> None:
    tree = Tree()
    for number in range(3000):
        with pytest.raises(ModelNotFound):
            tree.dispatch.lease((f"made-up-{number}", "openai"))
        tree.dispatch.choose(OPENAI)
    held = tree.registry._available  # the only place where they could be kept
    assert held.keys() == {OPENAI}
