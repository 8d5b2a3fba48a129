"""The text of `/metrics` is what prometheus_client makes of the same counts, and comes in small pieces."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from hierarchy.runtime.exposition import FAMILIES, pieces, render
from hierarchy.runtime.metrics import GAUGES, Metrics, Sample

MANY = 2000


@given(st.lists(st.text(max_size=5), min_size=3, max_size=3), st.floats(0, 1e300))
def test_any_name_and_value_is_read_as_it_was(names: list[str], value: float) -> None:
    model, child, outcome = names
    metrics = Metrics(lambda: [("hierarchy_child_speed", (child,), value)])
    counts = metrics.of_share(model, "openai", child)
    counts.done(outcome)
    counts.total.observe(value)
    found = {
        sample.name: (sample.labels, sample.value)
        for family in text_string_to_metric_families(render(metrics).decode())
        for sample in family.samples
    }
    labels = {"model": model, "api": "openai", "child": child}
    assert found["hierarchy_requests_total"] == ({**labels, "outcome": outcome}, 1.0)
    assert found["hierarchy_request_seconds_sum"] == (labels, value)
    assert found["hierarchy_child_speed"] == ({"child": child}, value)


def test_each_family_comes_once_and_with_its_type() -> None:
    heads = [line.split()[2:] for line in render(Metrics()).decode().splitlines() if line.startswith("# TYPE")]
    assert sorted(heads) == sorted([name, kind] for name, (kind, _, _) in FAMILIES.items())


def test_thousands_of_series_come_in_small_pieces() -> None:
    def gauges() -> Iterable[Sample]:
        return (
            (name, labels, 1.0)
            for number in range(MANY)
            for name, labels in ((next(iter(GAUGES)), ("", "", str(number))),)
        )

    metrics = Metrics(gauges)
    for number in range(MANY):
        metrics.of_share("m", "openai", f"gpu-{number}").done("ok")
        metrics.state_changed(f"gpu-{number}", "", "up")
    found = list(pieces(metrics))
    assert len(found) > 5 * MANY  # steps: a request waits for no more than a few of them
    assert max(map(len, found)) < 100_000
    assert b"".join(found).count(b"hierarchy_requests_total{") == MANY
