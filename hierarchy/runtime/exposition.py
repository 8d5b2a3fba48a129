"""The counts of a node in Prometheus's text format, in pieces: 10,000 series of histograms are 40 MB of text.

prometheus_client makes the same text, but whole, and 30 times as slowly.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hierarchy.runtime.metrics import BUCKETS_S, GAUGES, Histogram, Metrics

#: name -> (kind, help, label names)
FAMILIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "hierarchy_requests_total": (
        "counter",
        "Attempts at a child, by how they ended.",
        ("model", "api", "child", "outcome"),
    ),
    "hierarchy_attempts_total": (
        "counter",
        "Attempts at all children, also at those that are gone.",
        ("outcome",),
    ),
    "hierarchy_time_to_first_byte_seconds": (
        "histogram",
        "From sending a request to its first body byte.",
        ("model", "api", "child"),
    ),
    "hierarchy_request_seconds": (
        "histogram",
        "From a request's arrival to its answer's end.",
        ("model", "api", "child"),
    ),
    "hierarchy_prompt_bytes_matched_total": (
        "counter",
        "Bytes of prompts that the child had in its cache, as far as this node knows.",
        ("model", "api", "child"),
    ),
    "hierarchy_prompt_bytes_unmatched_total": (
        "counter",
        "Bytes of prompts that the child had to read.",
        ("model", "api", "child"),
    ),
    "hierarchy_model_loads_total": (
        "counter",
        "Loads of a model that requests waited for.",
        ("model", "api", "child"),
    ),
    "hierarchy_model_load_seconds_total": ("counter", "How long they took.", ("model", "api", "child")),
    "hierarchy_wakes_total": ("counter", "Engines woken up or started by requests.", ("child", "outcome")),
    "hierarchy_prefix_choices_total": ("counter", "Children chosen by what a prompt begins with.", ("reason",)),
    "hierarchy_labels_ignored_total": ("counter", "Labels in reports that this node does not know the child by.", ()),
    "hierarchy_prefix_fields_ignored_total": ("counter", "Fields of parents that are no fingerprints.", ()),
    "hierarchy_refused_total": ("counter", "Requests answered with an error of this node.", ("code",)),
    "hierarchy_retries_total": ("counter", "Attempts after a failed one.", ()),
    "hierarchy_child_state_changes_total": ("counter", "Changes of a child's state.", ("child", "model", "state")),
    "hierarchy_loop_lag_seconds_total": ("counter", "By which the event loop was late, in total.", ()),
    "hierarchy_paused_seconds_total": ("counter", "In which this process could not act.", ()),
    "hierarchy_loop_holds_total": ("counter", "Steps that held the event loop for 50 ms or more.", ()),
    "hierarchy_client_requests_total": (
        "counter",
        "Requests of this node's clients, by how they ended.",
        ("outcome", "status"),
    ),
    **{name: ("gauge", text, labels) for name, (text, labels) in GAUGES.items()},
}
_BOUNDS = [*(f',le="{bound}"}} ' for bound in BUCKETS_S), ',le="+Inf"} ']
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
Row = tuple[tuple[str, ...], float]  # label values, value


def render(metrics: Metrics) -> bytes:
    """All of it."""
    return b"".join(pieces(metrics))


def pieces(metrics: Metrics) -> Iterator[bytes]:
    """All of it, in pieces of one child and model each. The counts may change between two of them."""
    sums = dict(metrics.gone)
    yield from _counters("hierarchy_requests_total", _by_share(metrics, sums))
    yield from _counters("hierarchy_attempts_total", (((outcome,), count) for outcome, count in sums.items()))
    for name, attribute in (("hierarchy_time_to_first_byte_seconds", "ttft"), ("hierarchy_request_seconds", "total")):
        yield _head(name)
        for key, counts in list(metrics.shares.items()):
            yield _histogram(name, _labels(name, key), getattr(counts, attribute))
    for name, part in (("matched", "matched_bytes"), ("unmatched", "unmatched_bytes")):
        sent = [(key, getattr(counts, part)) for key, counts in list(metrics.shares.items())]
        yield from _counters(f"hierarchy_prompt_bytes_{name}_total", [row for row in sent if row[1]])
    for name, part in (("loads", "loads"), ("load_seconds", "load_s")):
        took = [(key, getattr(counts, part)) for key, counts in list(metrics.shares.items()) if counts.loads]
        yield from _counters(f"hierarchy_model_{name}_total", took)
    for name, rows in _small(metrics):
        yield from _counters(name, rows)
    yield from _gauges(metrics)


def _by_share(metrics: Metrics, sums: dict[str, int]) -> Iterator[Row]:
    """Attempts at each child, which are added to `sums` by their outcome."""
    for key, counts in list(metrics.shares.items()):
        for outcome, count in list(counts.outcomes.items()):
            sums[outcome] = sums.get(outcome, 0) + count
            yield (*key, outcome), count


def _small(metrics: Metrics) -> Iterator[tuple[str, Iterable[Row]]]:
    """Counters of the whole node, and of children."""
    clock, watch = metrics.clock, metrics.watch
    ended = {("ok", 200): metrics.whole, **metrics.endings}
    yield "hierarchy_refused_total", [((code,), count) for code, count in metrics.refused.items()]
    yield "hierarchy_retries_total", [((), metrics.retries)]
    yield "hierarchy_wakes_total", list(metrics.wakes.items())
    yield "hierarchy_prefix_choices_total", [((reason,), count) for reason, count in metrics.prefix_choices.items()]
    yield "hierarchy_labels_ignored_total", [((), metrics.labels_ignored)]
    yield "hierarchy_prefix_fields_ignored_total", [((), metrics.prefix_fields_ignored)]
    yield "hierarchy_child_state_changes_total", list(metrics.state_changes.items())
    yield "hierarchy_loop_lag_seconds_total", [((), clock.lag_s if clock is not None else 0.0)]
    yield "hierarchy_paused_seconds_total", [((), clock.paused_s if clock is not None else 0.0)]
    yield "hierarchy_loop_holds_total", [((), watch.holds if watch is not None else 0)]
    yield (
        "hierarchy_client_requests_total",
        [((outcome, str(status) if status else ""), count) for (outcome, status), count in ended.items()],
    )


def _gauges(metrics: Metrics) -> Iterator[bytes]:
    """All gauges; they come child by child, and the text has them gauge by gauge."""
    lines: dict[str, list[str]] = {name: [] for name in GAUGES}
    for name, values, value in metrics.gauges():
        lines[name].append(_line(name, values, value))
        yield b""  # others may run
    for name, rows in lines.items():
        yield _head(name)
        for start in range(0, len(rows), 1000):
            yield "".join(rows[start : start + 1000]).encode()


def _counters(name: str, rows: Iterable[Row]) -> Iterator[bytes]:
    yield _head(name)
    for values, value in rows:
        yield _line(name, values, value).encode()


def _head(name: str) -> bytes:
    kind, text, _ = FAMILIES[name]
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()


def _line(name: str, values: Sequence[str], value: float) -> str:
    labels = _labels(name, values)
    return f"{name}{{{labels}}} {float(value)}\n" if labels else f"{name} {float(value)}\n"


def _labels(name: str, values: Sequence[str]) -> str:
    """Such as `api="openai",child="gpu"`."""
    pairs = sorted(zip(FAMILIES[name][2], values, strict=True))
    return ",".join([f'{label}="{value.translate(_ESCAPED)}"' for label, value in pairs])


def _histogram(name: str, labels: str, histogram: Histogram) -> bytes:
    begin, total, lines = f"{name}_bucket{{{labels}", 0, []
    for bound, count in zip(_BOUNDS, histogram.counts, strict=True):
        total += count
        lines.append(f"{begin}{bound}{total}.0\n")
    lines.append(f"{name}_count{{{labels}}} {total}.0\n{name}_sum{{{labels}}} {histogram.sum}\n")
    return "".join(lines).encode()
