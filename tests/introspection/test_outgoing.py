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
from hierarchy.runtime.steps import at_once
from hierarchy.wire.limits import ChildLimits, limits
from hierarchy.wire.messages import HeartBeat, Identity, Registration, WorkerStatus, decode
from tests.builders import Table, model, report, site

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
