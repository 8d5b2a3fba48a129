"""What is measured."""

from __future__ import annotations

import pytest

from hierarchy.simulation.measures import NONE, Measures, quantile, spread
from hierarchy.simulation.prompt import Prompt
from hierarchy.simulation.request import Conversation, Request, Turn


def measured(*requests: tuple[float, float, int, int]) -> Measures:
    """began at, TTFT, tokens, of these cached"""
    measures = Measures()
    for began_at, ttft, tokens, cached in requests:
        prompt = Prompt().then(1, tokens)
        request = Request(Conversation(0, 1, iter([])), Turn(0, prompt, 1, prompt), ("m", "openai"), began_at, 3)
        request.first_at, request.cached = began_at + ttft, cached
        measures.ended(request, began_at + ttft + 1)
    return measures


@pytest.mark.parametrize(("part", "value"), [(0.0, 1.0), (0.5, 2.0), (0.75, 3.0), (0.76, 4.0), (0.99, 4.0), (1.0, 4.0)])
def test_quantiles(part: float, value: float) -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], part) == value


def test_the_spread_of_nothing_is_zero() -> None:
    assert spread([]) == NONE
    assert spread([3.0, 1.0]).mean == 2.0


def test_the_hit_rate_counts_tokens_not_requests() -> None:
    measures = measured((0, 1, 100, 0), (1, 1, 900, 900))
    assert measures.hit_rate(measures.since(0)) == 0.9
    assert measures.hit_rate(measures.since(0, 1)) == 0.0
    assert measures.hit_rate([]) == 0.0


def test_the_time_is_divided_where_something_happens() -> None:
    measures = measured(*((at, 0.5, 10, 5) for at in range(100)))
    phases = measures.phases(20, 100, [("site-a is lost", 40.0)])
    assert [(phase.name, phase.requests) for phase in phases] == [
        ("before", 20),
        ("site-a is lost", 10),
        ("site-a is lost +10 s", 20),
        ("site-a is lost +30 s", 30),
    ]
    assert phases[0].ttft.p50 == pytest.approx(0.5)


def test_moments_cover_all_requests() -> None:
    measures = measured(*((at, 0.5, 10, 5) for at in range(100)))
    moments = measures.moments(50.0, 10)
    assert sum(moment.requests for moment in moments) == 100
    assert [moment.at_s for moment in moments][:3] == [0.0, 5.0, 10.0]
