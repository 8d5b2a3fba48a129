"""Counters and histograms of a node; `exposition` has their form for Prometheus.

The lane counts in plain attributes (`ShareMetrics`): an instrument of prometheus_client takes a lock and a dictionary
look-up per event, which would cost more than choosing the child. Gauges, whose values can be computed at any time, are
computed when `/metrics` is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from hierarchy.runtime.awake import AwakeClock
from hierarchy.runtime.loop_watch import LoopWatch

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_BOUNDS: Final = list(BUCKETS_S)  # a list is the fastest to iterate, compiled
#: name -> (help, label names)
GAUGES = {
    "hierarchy_build_info": ("Always 1; the labels name what runs.", ("version", "build", "data_path")),
    "hierarchy_child_up": ("1 if the child may be chosen.", ("child", "kind", "state")),
    "hierarchy_child_speed": ("Declared or summed capacity weight.", ("child",)),
    "hierarchy_child_slots": ("Requests that the child runs at once, where that is known.", ("model", "api", "child")),
    "hierarchy_child_queue_length": ("Requests running or waiting at the child.", ("child",)),
    "hierarchy_requests_in_flight": ("Open leases.", ("child",)),
    "hierarchy_child_round_trip_seconds": ("Least of the last round trips to the child.", ("child",)),
    "hierarchy_uplink_up": ("1 if registered with that parent.", ("parent",)),
    "hierarchy_links": ("Open reverse links of a child.", ("child", "state")),
    "hierarchy_links_wanted": ("Requests that wait for a reverse link.", ("child",)),
    "hierarchy_certificate_days_left": ("Days until it expires.", ("setting",)),
    "hierarchy_credential_days_left": ("Days until it expires.", ("node",)),
    "hierarchy_children_with_accepted_key": ("Children whose credential `accepted_key` signed.", ()),
    "hierarchy_records_incomplete": ("1 if records of used tokens and revocations are missing.", ()),
    "hierarchy_connections": ("Open client connections.", ()),
    "hierarchy_loop_longest_hold_seconds": ("Own CPU time of the longest step of the event loop.", ()),
    "hierarchy_held_bytes": ("Bytes of requests and of unread responses in memory.", ()),
    "hierarchy_prefix_index_entries": ("Digests of prompts that this node remembers.", ()),
    "hierarchy_prefix_index_bytes": ("Memory that these take at most, of `index_memory`.", ()),
    "hierarchy_engine_cache_hit_rate": (
        "Part of an engine's prompt tokens that were in its cache of late, by its own count.",
        ("child", "model"),
    ),
    "hierarchy_prompt_bytes_pending": ("Bytes of prompts that children were sent and have to read.", ("child",)),
    "hierarchy_child_models_cold": ("Models that the child would have to load first.", ("child",)),
    "hierarchy_requests_waking": ("Requests that wait until an engine is awake.", ()),
    "hierarchy_requests_held": ("Requests that wait for a child to appear.", ()),
}
Sample = tuple[str, tuple[str, ...], float]  # gauge name, label values, value


class Histogram:
    """Counts of durations, by the buckets `BUCKETS_S`."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        bucket = 0
        for bound in _BOUNDS:  # no bisection: most times fall into one of the first few
            if seconds <= bound:
                break
            bucket += 1
        self.counts[bucket] += 1
        self.sum += seconds


class ShareMetrics:
    """Counts for one (model, api, child). Every request that was sent ends in exactly one of `done`'s outcomes."""

    __slots__ = ("load_s", "loads", "matched_bytes", "outcomes", "total", "ttft", "unmatched_bytes")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.matched_bytes = self.unmatched_bytes = 0  # of prompts that were sent there by the policy `prefix`
        self.loads, self.load_s = 0, 0.0  # of the model by the engine, and the seconds that they took
        self.ttft = Histogram()  # from sending the request to the first body byte
        self.total = Histogram()  # from the request's arrival to the response's end

    def done(self, outcome: str) -> None:
        """Count one attempt, by how it ended."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


class Metrics:
    """All counts of this process.

    gauges: returns the current values; called when `/metrics` is read. clock: counts this process's own pauses.
    watch: counts what holds its event loop.
    """

    def __init__(
        self,
        gauges: Callable[[], Iterable[Sample]] = lambda: (),
        clock: AwakeClock | None = None,
        watch: LoopWatch | None = None,
    ) -> None:
        self.gauges = gauges
        self.clock = clock
        self.watch = watch
        self.shares: dict[tuple[str, str, str], ShareMetrics] = {}  # by model, api, child
        self.refused: dict[str, int] = {}  # requests answered with an error of this node, by its code
        self.retries = 0
        self.wakes: dict[tuple[str, str], int] = {}  # of engines, by engine and outcome
        self.prefix_choices: dict[str, int] = {}  # children that were chosen by what a prompt begins with, by reason
        self.labels_ignored = 0  # in reports, of labels that the child is not bound to
        self.prefix_fields_ignored = 0  # fields of parents that are no fingerprints
        self.state_changes: dict[tuple[str, str, str], int] = {}  # by child, model ("": the whole child), new state
        self.whole = 0  # requests of clients that got a complete response with status 200
        #: ended attempts whose series are gone, by outcome
        self.gone: dict[str, int] = {}
        self._unused: dict[tuple[str, str], float] = {}  # (child, model) of series that may go, and since when
        self.endings: dict[tuple[str, int], int] = {}  # all others, by outcome and by the status that the client got

    def of_share(self, model: str, api: str, child: str) -> ShareMetrics:
        """The counts of one (model, api, child), created at first use, and kept until `forget`."""
        key = model, api, child
        counts = self.shares.get(key)
        if counts is None:
            counts = self.shares[key] = ShareMetrics()
        return counts

    def answered(self, outcome: str, status: int) -> None:
        """A client's request has ended. status: that its client got; 0 for none."""
        if outcome == "ok" and status == 200:  # nearly always
            self.whole += 1
        else:
            key = outcome, status
            self.endings[key] = self.endings.get(key, 0) + 1

    def refuse(self, code: str) -> None:
        """Count a request that was answered with an error of this node, by the error's `code`."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def state_changed(self, child: str, model: str, state: str) -> None:
        """Count that a child, or one of its models, is in another state than before."""
        key = child, model, state
        self.state_changes[key] = self.state_changes.get(key, 0) + 1

    def forget(self, is_used: Callable[[str, str], bool], now: float, keep_s: float) -> None:
        """Drop the series of children and models that went `keep_s` seconds ago. Call it now and then.

        is_used: whether a child (by name) is there and serves a model (""; the child is there), or still has requests.
        """
        pairs = {(child, model) for model, _, child in self.shares}
        pairs |= {(child, model) for child, model, _ in self.state_changes}
        self._unused = {pair: self._unused.get(pair, now) for pair in pairs if not is_used(*pair)}
        over = {pair for pair, since in self._unused.items() if now - since >= keep_s}
        if not over:
            return
        for key in [key for key in self.shares if (key[2], key[0]) in over]:
            for outcome, count in self.shares.pop(key).outcomes.items():
                self.gone[outcome] = self.gone.get(outcome, 0) + count
        for change in [change for change in self.state_changes if change[:2] in over]:
            del self.state_changes[change]
        self._unused = {pair: since for pair, since in self._unused.items() if pair not in over}
