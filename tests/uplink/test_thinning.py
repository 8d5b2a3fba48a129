"""When a node reports."""

from __future__ import annotations

from random import Random

import pytest

from hierarchy.uplink.thinning import JITTER, differ, is_urgent, next_due, other_load
from hierarchy.wire.status import ModelStatus, NodeStatus


def status(queue: int, speed: float = 1.0, *, avoid: bool = False) -> NodeStatus:
    return NodeStatus((ModelStatus("m", "openai", speed, queue, avoid=avoid),), speed, queue)


def test_a_report_is_due_within_a_fifth_of_its_interval() -> None:
    rng = Random(1)
    due = [next_due(100.0, 2.0, rng) - 100.0 for _ in range(1000)]
    assert min(due) >= 2 * (1 - JITTER)
    assert max(due) <= 2 * (1 + JITTER)
    assert max(due) - min(due) > 0.7


def test_what_the_parent_sent_is_no_news_to_it() -> None:
    assert other_load(status(10), 4) == 6
    assert other_load(status(3), 4) == 0


@pytest.mark.parametrize(
    ("now", "other", "before", "before_other", "urgent"),
    [
        pytest.param(status(10), 10, status(10), 10, False, id="nothing"),
        pytest.param(status(20), 11, status(20), 10, False, id="less than a tenth"),
        pytest.param(status(20), 13, status(20), 10, True, id="more than a tenth"),
        pytest.param(status(1), 1, status(0), 0, True, id="the first request of another parent"),
        pytest.param(status(10), 0, status(0), 0, False, id="only what the parent sent"),
        pytest.param(status(10, 2.0), 10, status(10), 10, True, id="another speed"),
        pytest.param(status(10, avoid=True), 10, status(10), 10, True, id="to be avoided"),
        pytest.param(NodeStatus((), 1.0, 10), 10, status(10), 10, True, id="a model less"),
    ],
)
def test_what_is_urgent(now: NodeStatus, other: int, before: NodeStatus, before_other: int, urgent: bool) -> None:
    assert is_urgent(now, other, before, before_other) is urgent


def test_a_queue_is_no_difference_for_routing() -> None:
    assert not differ(status(1), status(99))
