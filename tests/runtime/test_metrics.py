"""The text of `/metrics`, read with Prometheus' own parser."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from hierarchy.runtime.awake import AwakeClock
from hierarchy.runtime.exposition import render
from hierarchy.runtime.metrics import BUCKETS_S, GAUGES, Metrics, Sample
from tests.clocks import Clock

ATTEMPTS = "hierarchy_attempts_total"
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(metrics: Metrics) -> Values:
    """(sample name, sorted labels) -> value; each may occur once only."""
    values: Values = {}
    for family in text_string_to_metric_families(render(metrics).decode()):
        assert family.documentation
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in values
            values[key] = sample.value
    return values


def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


def test_metrics_without_counts_are_valid() -> None:
    without_labels = (
        "hierarchy_labels_ignored_total",
        "hierarchy_prefix_fields_ignored_total",
        "hierarchy_retries_total",
        "hierarchy_loop_lag_seconds_total",
        "hierarchy_paused_seconds_total",
        "hierarchy_loop_holds_total",
    )
    client_requests = key("hierarchy_client_requests_total", outcome="ok", status="200")
    assert read(Metrics()) == {**{key(name): 0 for name in without_labels}, client_requests: 0}


def test_series_of_what_is_gone_go_after_a_while_and_the_sums_stay() -> None:
    metrics, present, now = Metrics(), {("gpu", ""), ("gpu", "m")}, 1000.0

    def forget(after_s: float) -> None:
        nonlocal now
        now += after_s
        metrics.forget(lambda *pair: pair in present, now, 600.0)

    def children() -> set[str]:
        return {dict(labels)["child"] for _, labels in read(metrics) if "child" in dict(labels)}

    def sums() -> dict[str, float]:
        found = read(metrics)
        return {dict(labels)["outcome"]: value for (name, labels), value in found.items() if name == ATTEMPTS}

    for child, model, outcome in (("gpu", "m", "ok"), ("gpu", "n", "ok"), ("pod-1", "m", "ok"), ("pod-2", "m", "cut")):
        counts = metrics.of_share(model, "openai", child)
        counts.done(outcome)
        counts.matched_bytes = counts.unmatched_bytes = 1
        metrics.state_changed(child, "", "up")
        metrics.state_changed(child, model, "ejected")
    before = sums()
    assert before == {"ok": 3.0, "cut": 1.0}
    present.add(("pod-2", "m"))
    forget(0.0)
    present.discard(("pod-2", "m"))
    forget(599.0)
    assert children() == {"gpu", "pod-1", "pod-2"}
    forget(1.0)
    assert children() == {"gpu", "pod-2"}
    assert sums() == before
    assert {key[0] for key in metrics.shares if key[2] == "gpu"} == {"m"}  # the model went, the child did not
    metrics.of_share("m", "openai", "pod-1").done("ok")  # it came back, and begins anew
    assert sums() == {"ok": 4.0, "cut": 1.0}
    present.add(("pod-1", "m"))
    forget(599.0)
    assert children() == {"gpu", "pod-1"}
    assert sums() == {"ok": 4.0, "cut": 1.0}
    present.clear()
    forget(1.0)
    forget(600.0)
    assert children() == set()
    assert (metrics.shares, metrics.state_changes, metrics._unused) == ({}, {}, {})
    assert sums() == {"ok": 4.0, "cut": 1.0}


def test_pauses_of_the_process_are_counted() -> None:
    real = Clock()
    clock = AwakeClock(real)
    clock.tick()
    real.tick(3)
    clock.tick()
    counts = read(Metrics(clock=clock))
    assert counts[key("hierarchy_loop_lag_seconds_total")] == pytest.approx(2.9)
    assert counts[key("hierarchy_paused_seconds_total")] == pytest.approx(2.7)


def test_requests_are_counted_by_how_they_ended() -> None:
    metrics = Metrics()
    labels = {"model": "m", "api": "openai", "child": "gpu"}
    counts = metrics.of_share(**labels)
    for outcome in ("ok", "ok", "cut"):
        counts.done(outcome)
        counts.total.observe(0.3)
    counts.ttft.observe(0.2)
    assert metrics.of_share(**labels) is counts
    metrics.of_share("m", "fastchat", "gpu").done("ok")
    for code in ("model_not_found", "model_not_found", "bad_request"):
        metrics.refuse(code)
    metrics.retries += 2
    values = read(metrics)
    assert values[key("hierarchy_requests_total", **labels, outcome="ok")] == 2
    assert values[key("hierarchy_requests_total", **labels, outcome="cut")] == 1
    assert values[key("hierarchy_requests_total", model="m", api="fastchat", child="gpu", outcome="ok")] == 1
    assert values[key("hierarchy_time_to_first_byte_seconds_count", **labels)] == 1
    assert values[key("hierarchy_request_seconds_count", **labels)] == 3
    assert values[key("hierarchy_request_seconds_sum", **labels)] == pytest.approx(0.9)
    assert values[key("hierarchy_refused_total", code="model_not_found")] == 2
    assert values[key("hierarchy_refused_total", code="bad_request")] == 1
    assert values[key("hierarchy_retries_total")] == 2
    assert read(metrics) == values  # rendering changes no counter


def test_hostile_names_cannot_break_the_format() -> None:
    metrics = Metrics()
    odd = 'a"b\\c\nd{e="f"} 1'
    metrics.of_share(odd, "openai", odd).done("ok")
    assert read(metrics)[key("hierarchy_requests_total", model=odd, api="openai", child=odd, outcome="ok")] == 1


def test_gauges_are_computed_at_each_scrape() -> None:
    in_flight = 1.0

    def gauges() -> Iterable[Sample]:
        yield "hierarchy_requests_in_flight", ("gpu",), in_flight
        yield "hierarchy_connections", (), 7.0

    metrics = Metrics(gauges)
    assert read(metrics)[key("hierarchy_requests_in_flight", child="gpu")] == 1
    in_flight = 5.0
    values = read(metrics)
    assert values[key("hierarchy_requests_in_flight", child="gpu")] == 5
    assert values[key("hierarchy_connections")] == 7


def test_every_declared_gauge_is_rendered() -> None:
    metrics = Metrics(lambda: [(name, tuple(labels), 1.0) for name, (_, labels) in GAUGES.items()])
    values = read(metrics)
    for name, (_, labels) in GAUGES.items():
        assert values[key(name, **{label: label for label in labels})] == 1


def test_metrics_of_two_nodes_do_not_mix() -> None:
    one, other = Metrics(), Metrics()
    one.refuse("x")
    assert other.refused == {}
    assert key("hierarchy_refused_total", code="x") not in read(other)


@given(st.lists(st.floats(0, 1e4) | st.sampled_from(BUCKETS_S)))
def test_a_histogram_is_cumulative_and_complete(seconds: list[float]) -> None:
    metrics = Metrics()
    histogram = metrics.of_share("m", "openai", "gpu").ttft
    for each in seconds:
        histogram.observe(each)
    name, labels = "hierarchy_time_to_first_byte_seconds", {"model": "m", "api": "openai", "child": "gpu"}
    values = read(metrics)
    for bound in BUCKETS_S:  # "le": the bound itself counts
        assert values[key(f"{name}_bucket", **labels, le=str(bound))] == sum(each <= bound for each in seconds)
    assert values[key(f"{name}_bucket", **labels, le="+Inf")] == values[key(f"{name}_count", **labels)] == len(seconds)
    assert values[key(f"{name}_sum", **labels)] == pytest.approx(math.fsum(seconds))


def test_a_histogram_reads_back_as_it_was_written() -> None:
    metrics = Metrics()
    labels = {"model": "m", "api": "openai", "child": "gpu"}
    counts = metrics.of_share(**labels)
    for seconds in (0.001, 0.3, 0.3, 1000.0):
        counts.ttft.observe(seconds)
    values = read(metrics)
    name = "hierarchy_time_to_first_byte_seconds"
    buckets = {bound: values[key(f"{name}_bucket", **labels, le=bound)] for bound in ("0.005", "0.25", "0.5", "+Inf")}
    assert buckets == {"0.005": 1, "0.25": 1, "0.5": 3, "+Inf": 4}
    assert values[key(f"{name}_count", **labels)] == 4
    assert values[key(f"{name}_sum", **labels)] == pytest.approx(1000.601)
