"""Whatever the children list, a parent accepts this node's own message, and what other children list is in it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchy.errors import InvalidField
from hierarchy.introspection.outgoing import LEFT_OUT, Outgoing, fair_level
from hierarchy.introspection.tree import TreeView
from hierarchy.labels import MAX_SETS
from hierarchy.runtime.steps import at_once
from hierarchy.wire.limits import ChildLimits, limits
from hierarchy.wire.messages import HeartBeat, Identity, Registration, WorkerStatus, decode
from hierarchy.wire.offer import NOTHING, Offer, check_offers
from tests.builders import Table, model, report, site, status_of, worker

MOST = 256 * 1024  # `max_body_bytes` of these nodes
LIMITS = limits(MOST)


def table(*messages: dict[str, Any], most: ChildLimits = LIMITS) -> Table:
    """A node with these children."""
    made = Table()
    made.limits = most
    for message in messages:
        made.add(message)
    return made


def own_message(of: Table) -> Registration:
    """What the node registers with its parent."""
    outgoing = Outgoing(of, TreeView(of, of.clock))
    status = outgoing.status()
    return Registration(
        worker_name="http://mid:21001",
        check_heart_beat=True,
        worker_status=WorkerStatus(status.model_names, status.speed, status.queue_length),
        node="mid",
        instance="mid-1",
        path=outgoing.path(),
        models=list(status.models),
        children=at_once(outgoing.children_steps()),
    )


def accepted(message: Registration) -> Table:
    """The parent of the node, after the message. Fails if it is refused."""
    body = msgspec.json.encode(message)
    assert len(body) < MOST
    above = table()
    above.identity = Identity("top", "http://top:21001", "top-1")
    above.register(decode(body, Registration, LIMITS.message_values))
    assert not above.children["mid"].below_is_cut
    return above


def names(count: int, length: int = 1, prefix: str = "evil") -> list[str]:
    return [f"{prefix}-{number:x}-{'x' * length}" for number in range(count)]


def most_models(prefix: str = "evil") -> dict[str, Any]:
    """A registration with as many models as one child may have."""
    count = LIMITS.model_bytes // (200 + 3 * (3 + len(names(1, 20, prefix)[0]) + 2))
    return site(prefix, *(model(name) for name in names(count, 20, prefix)))


def most_instances(prefix: str = "evil") -> dict[str, Any]:
    return site(prefix, path=names(LIMITS.instances, prefix=prefix))


def most_below(prefix: str = "evil") -> dict[str, Any]:
    return site(prefix, children={name: {"kind": "vllm"} for name in names(700, prefix=prefix)})


def longest_below(prefix: str = "evil") -> dict[str, Any]:
    return site(prefix, children={"x": {"kind": "vllm", "detail": "y" * (LIMITS.subtree_bytes - 100)}})


@pytest.mark.parametrize("message", [most_models, most_instances, most_below, longest_below])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_children_that_say_as_much_as_they_may_do_not_shut_their_siblings_out(message: Any, count: int) -> None:
    honest = site(
        "site-a", model("good"), path=["site-a-1", "rack-1"], children={"gpu": {"kind": "vllm", "state": "up"}}
    )
    mid = table(honest, *(message(f"evil{number}") for number in range(count)))
    above = accepted(own_message(mid)).children["mid"]
    assert ("good", "openai") in above.shares
    assert {"site-a-1", "rack-1", "root-1"} <= above.path
    assert above.subtree["site-a"]["children"] == {"gpu": {"kind": "vllm", "state": "up"}}
    assert {f"evil{number}" for number in range(count)} <= above.subtree.keys(), "their places are shown"


def test_what_is_left_out_is_said() -> None:
    entries = own_message(table(site("site-a"), most_below("evil0"), most_below("evil1"))).children
    assert entries is not None
    assert LEFT_OUT in entries["evil0"]["warnings"]
    assert "warnings" not in entries["site-a"]


def test_all_that_fits_is_sent() -> None:
    mid = table(site("site-a"), most_models())
    assert mid.children["evil"].status.models[0] in own_message(table(most_models())).models  # type: ignore[operator]
    outgoing = Outgoing(mid, TreeView(mid, mid.clock))
    mid.limits = limits()
    assert outgoing.status() is mid.status()
    assert outgoing.path() == mid.path()
    assert at_once(outgoing.children_steps()) == TreeView(mid, mid.clock).children()


def test_models_that_did_not_fit_are_sent_when_there_is_room_again(caplog: pytest.LogCaptureFixture) -> None:
    mid = table(most_models("evil0"), most_models("evil1"))
    outgoing = Outgoing(mid, TreeView(mid, mid.clock))
    for _ in range(3):
        assert len(outgoing.status().models) < len(mid.status().models)
        assert mid.receive(report("evil0", *mid.children["evil0"].status.models, seq=mid.children["evil0"].seq + 1))
    assert len(caplog.records) == 1
    mid.remove("evil1")
    assert outgoing.status().models == mid.status().models


@settings(max_examples=200)
@given(st.lists(st.integers(0, 1000), max_size=12), st.integers(0, 2000))
def test_fair_shares_are_within_the_limit_and_use_it(weights: list[int], limit: int) -> None:
    level = fair_level(weights, limit)
    taken = sum(min(weight, level) for weight in weights)
    assert taken <= limit
    assert taken == sum(weights) or taken > limit - max(1, len(weights))


def test_an_instance_list_of_a_report_is_limited_in_number_and_length() -> None:
    mid = table(site("evil"))
    for path in (names(LIMITS.instances + 1), names(40, 230)):
        body = msgspec.json.encode(report("evil", path=path))
        with pytest.raises(InvalidField, match="path: has"):
            mid.heart_beat(decode(body, HeartBeat))


EU, US = {"region": "eu"}, {"region": "us"}


def offers(of: Table) -> list[Offer]:
    of.status()  # as before each report
    return Outgoing(of, TreeView(of, of.clock)).labels()


def engine(of: Table, name: str, *models: str) -> None:
    of.report(of.declare(name, f"http://{name}:1", "vllm"), status_of(*map(model, models or ("m",))))


def test_a_node_reports_which_model_can_have_which_labels() -> None:
    of = table()
    of.declare_labels({"a": EU, "b": US, "d": {}, "site-a": {"region": "eu/us"}})
    engine(of, "a", "m", "n")
    assert offers(of) == [Offer([EU], ["m", "n"])]
    engine(of, "b", "m")
    assert offers(of) == [Offer([EU, US], ["m"]), Offer([EU], ["n"])]
    engine(of, "c", "o")
    of.add(worker(models=["n", "p"]))  # nothing is known of it
    of.add(site("site-a", model("q"), model("r"), labels=[{"sets": [US, {"trust": "own"}], "models": ["q"]}]))
    assert offers(of) == [
        Offer([EU, US], ["m"]),
        Offer([EU], ["n"]),
        Offer([], ["p"]),
        Offer([{"region": "eu/us", "trust": "own"}, US], ["q"]),
        Offer([{"region": "eu/us"}], ["r"]),
    ]
    of.mark_down(of.children["b"], "refused")
    assert offers(of)[0] == Offer([EU], ["m", "n"])


def test_where_there_are_no_labels_nothing_is_reported() -> None:
    of = table(site())
    assert offers(of) == [NOTHING]  # it joined, and nothing is known of it
    engine(of, "a")
    assert offers(of) == []


def test_more_kinds_of_engines_than_can_be_reported_promise_nothing() -> None:
    of = table()
    of.declare_labels({f"e{n}": {"zone": f"z{n}"} for n in range(MAX_SETS + 1)})
    for number in range(MAX_SETS):
        engine(of, f"e{number}")
    assert len(offers(of)[0].sets) == MAX_SETS
    engine(of, f"e{MAX_SETS}")
    assert offers(of) == [Offer([], ["m"])]


def test_a_parent_accepts_whatever_is_reported_of_labels() -> None:
    of = Table()
    of.limits = LIMITS
    of.declare_labels({f"e{n}": {f"l{i}": f"{n}-{i}".ljust(60, "x") for i in range(3)} for n in range(8)})
    for number in range(8):
        engine(of, f"e{number}", *(f"{number}-{index}" for index in range(8)))
    check_offers("labels", offers(of), LIMITS)
    assert len(offers(of)) == 8
    of.limits = limits(16 * 1024)
    of.generation += 1
    assert offers(of) == [NOTHING], "rather than a message that is refused as a whole"
