"""Requests that require labels: which children they may go to, whatever happens."""

from __future__ import annotations

from random import Random

import pytest

from hierarchy.balancing.aliases import Aliases
from hierarchy.balancing.dispatch import Dispatch
from hierarchy.balancing.policy import POLICIES
from hierarchy.config.model_names import parse_targets
from hierarchy.errors import ModelNotFound, RequirementUnmet, Unavailable
from hierarchy.labels import Requirement
from hierarchy.prefix.fingerprint import Fingerprint
from hierarchy.registry.known_models import KNOWN_S, PATIENCE_S
from tests.builders import FASTCHAT, OPENAI, Table, eject, model, registration, site, status_of, worker

EU, US = {"region": "eu"}, {"region": "us"}
IN_EU = Requirement(EU)


class Tree:
    """A registry with engines eu-1, eu-2 and us that serve `m`, and a dispatch over it."""

    def __init__(self, policy: str = "shortest_queue", aliases: Aliases | None = None) -> None:
        self.registry = Table()
        self.clock = self.registry.clock
        self.registry.declare_labels({"eu-1": EU, "eu-2": EU, "us": US})
        self.dispatch = Dispatch(self.registry, policy, Random(7), aliases)
        self.first, self.second, self.us = (
            self.registry.declare(name, f"http://{name}:1", "vllm") for name in ("eu-1", "eu-2", "us")
        )
        for child in (self.first, self.second, self.us):
            self.registry.report(child, status_of(model()))


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_chooses_what_is_not_allowed(policy: str) -> None:
    tree = Tree(policy)
    fingerprint = Fingerprint(600, (b"123456", b"abcdef"), 5, 6)
    known = tree.dispatch.prefixes
    if known is not None:  # the child elsewhere has all of the prompt, its session, and the response that is continued
        tree.dispatch.lease(OPENAI, (tree.first, tree.second), prefix=fingerprint)
        known.answered(tree.us, 6)
        known.prior = True
    for number in range(60):
        prefix = fingerprint if number % 2 else None
        tree.dispatch.lease(OPENAI, prefix=prefix, require=IN_EU)
    assert tree.us.in_flight == (1 if known is not None else 0)
    assert tree.first.in_flight + tree.second.in_flight == 60
    assert min(tree.first.in_flight, tree.second.in_flight) > 0 or known is not None


def test_suspects_and_ejected_ones_that_are_allowed_come_before_the_best_that_is_not() -> None:
    tree = Tree()
    tree.registry.mark_down(tree.second, "refused")
    tree.registry.suspect(tree.first, "no answer")
    assert tree.dispatch.choose(OPENAI, require=IN_EU).child is tree.first
    assert tree.dispatch.choose(OPENAI).child is tree.us
    tree.registry.trust(tree.first)
    eject(tree.registry, tree.first, 60.0, "it fails")
    assert tree.dispatch.choose(OPENAI, require=IN_EU).child is tree.first
    with pytest.raises(Unavailable, match="region=eu"):
        tree.dispatch.choose(OPENAI, (tree.first,), require=IN_EU)
    with pytest.raises(Unavailable, match="region=eu"):
        tree.dispatch.choose(OPENAI, elsewhere=True, require=IN_EU)


def test_after_all_that_are_allowed_have_failed_none_is_left() -> None:
    tree = Tree()
    with pytest.raises(Unavailable, match="region=eu"):
        tree.dispatch.choose(OPENAI, (tree.first, tree.second), translated=True, require=IN_EU)
    assert tree.dispatch.choose(OPENAI, (tree.first, tree.second)).child is tree.us


def test_the_error_names_the_labels_and_whether_to_come_back() -> None:
    tree = Tree()
    tree.clock.tick(PATIENCE_S + 1)
    with pytest.raises(RequirementUnmet, match=r"region=eu,tier=gold") as unmet:
        tree.dispatch.choose(OPENAI, require=Requirement({**EU, "tier": "gold"}))
    assert (unmet.value.status, unmet.value.patience_s, unmet.value.retry_after_s) == (503, 0.0, 30)
    for child in (tree.first, tree.second):
        tree.registry.report(child, status_of(model()))
        tree.registry.mark_down(child, "it restarts")
    with pytest.raises(RequirementUnmet) as away:
        tree.dispatch.choose(OPENAI, require=IN_EU)
    assert away.value.patience_s > 0, "it was here a moment ago"
    tree.clock.tick(PATIENCE_S + 1)
    with pytest.raises(RequirementUnmet) as gone:
        tree.dispatch.choose(OPENAI, require=IN_EU)
    assert gone.value.patience_s == 0


def test_a_model_that_does_not_exist_is_not_found_whatever_is_required() -> None:
    tree = Tree()
    tree.clock.tick(KNOWN_S + 1)
    for name in ("eu-1", "eu-2", "us"):
        tree.registry.report(tree.registry.children[name], status_of(model()))
    with pytest.raises(ModelNotFound):
        tree.dispatch.choose(("nope", "openai"), translated=True, require=IN_EU)
    with pytest.raises(ModelNotFound):
        tree.dispatch.choose(FASTCHAT, require=IN_EU)


def test_the_other_api_is_used_only_where_it_is_allowed() -> None:
    tree = Tree()
    tree.registry.add(worker())  # nothing is known of it
    for child in (tree.first, tree.second):
        tree.registry.remove(child.name)
    with pytest.raises(RequirementUnmet):
        tree.dispatch.choose(OPENAI, translated=True, require=IN_EU)
    with pytest.raises(RequirementUnmet):
        tree.dispatch.hand_out("m", IN_EU)
    assert tree.dispatch.hand_out("m").child.kind == "fastchat"


def test_an_alias_stands_for_the_first_model_that_is_allowed() -> None:
    tree = Tree(aliases=Aliases({"best": parse_targets(["large", "m"])}, Random(7)))
    tree.registry.report(tree.us, status_of(model("large"), model()))
    assert tree.dispatch.resolve("best", "openai") == "large"
    assert tree.dispatch.resolve("best", "openai", require=IN_EU) == "m"


def test_a_node_that_says_nothing_of_labels_needs_a_parent_that_knows_all_of_it() -> None:
    """As one of an earlier release, which does not know the field either."""
    tree = Tree()
    for child in (tree.first, tree.second):
        tree.registry.remove(child.name)
    tree.registry.declare_labels({"us": US, "old": {"region": "eu/us"}})
    tree.registry.add(site("old"))
    with pytest.raises(RequirementUnmet):
        tree.dispatch.choose(OPENAI, require=IN_EU)
    tree.registry.declare_labels({"us": US, "old": EU})
    assert tree.dispatch.choose(OPENAI, require=IN_EU).child.name == "old"
    tree.registry.declare_labels({"us": US})
    with pytest.raises(RequirementUnmet):
        tree.dispatch.choose(OPENAI, require=Requirement(EU, ["region"]))
    tree.registry.depart("old")
    tree.registry.register(registration(site("old")), "token", labels=EU)
    assert tree.dispatch.choose(OPENAI, require=IN_EU).child.name == "old"


def test_candidates_are_kept_until_something_changes_and_none_of_them_for_long() -> None:
    tree = Tree()
    shares = tree.registry.allowed(OPENAI, IN_EU)
    assert tree.registry.allowed(OPENAI, Requirement(EU)) is shares
    assert tree.registry.are_current(OPENAI, shares, IN_EU)
    assert tree.registry.available(OPENAI) is not shares
    tree.registry.declare_labels({"eu-1": EU, "eu-2": EU, "us": {**US, "trust": "hired"}, "gone": {"trust": "own"}})
    for number in range(3000):  # what clients make up costs no look at the children, and no memory
        made_up = Requirement({"region": f"r{number}"})
        assert tree.registry.allowed(OPENAI, made_up) == []
        assert tree.registry.allowed(("made-up", "openai"), IN_EU) == []
        assert tree.registry.may_return("m", made_up) == 0
    assert len(tree.registry._allowed) <= 1
    assert tree.registry._returning == {}
    contradiction = Requirement({"region": "eu", "trust": "hired"})
    nothing = tree.registry.allowed(OPENAI, contradiction)
    assert nothing == []
    assert tree.registry.allowed(OPENAI, contradiction) is nothing, "not looked for each time"
    shares = tree.registry.allowed(OPENAI, IN_EU)
    assert {share.child for share in shares} == {tree.first, tree.second}
    tree.registry.remove("eu-1")
    assert [share.child for share in tree.registry.allowed(OPENAI, IN_EU)] == [tree.second]
    tree.dispatch.choose(OPENAI, require=IN_EU)
    tree.registry.remove("eu-2")
    tree.registry.forget_candidates()
    tree.dispatch.forget_candidates()
    assert tree.registry._allowed == {}
    assert tree.dispatch._required == {}
