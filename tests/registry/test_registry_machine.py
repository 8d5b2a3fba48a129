"""The cached candidates equal a fresh computation, in any order of events and whatever children send."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hierarchy.errors import RequestError
from hierarchy.registry.drain import Drain
from hierarchy.wire.status import Api, aggregate
from tests.builders import OPENAI, WORKER, Table, eject, model, report, site, status_of, worker

NAMES = st.sampled_from(["site-a", "site-b", "gpu", WORKER])
MODELS = st.lists(
    st.builds(model, st.sampled_from("mn"), st.sampled_from([1.0, 2.0]), st.integers(0, 9)),
    max_size=2,
    unique_by=lambda one: one.name,
).map(tuple)


class AvailableMachine(RuleBasedStateMachine):
    """`available` is cached; at any time it must equal a fresh computation over all children."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.seq = 0
        self.table.declare("gpu", "http://gpu:1", "vllm")

    def numbered(self) -> dict[str, Any]:
        self.seq += 1
        return {"seq": self.seq}

    @rule(name=st.sampled_from(["site-a", "site-b"]), models=MODELS, interval_s=st.sampled_from([1.0, 5.0]))
    def node_registers(self, name: str, models: tuple[Any, ...], interval_s: float) -> None:
        self.table.add(site(name, *models, interval_s=interval_s, **self.numbered()))

    @rule(name=st.sampled_from(["site-a", "site-b"]), models=MODELS)
    def node_reports(self, name: str, models: tuple[Any, ...]) -> None:
        known = name in self.table.children
        assert self.table.receive(report(name, *models, **self.numbered())) is known

    @rule(models=st.sets(st.sampled_from("mn")))
    def worker_registers(self, models: set[str]) -> None:
        self.table.add(worker(models=sorted(models)))

    @rule(queue_length=st.integers(0, 9))
    def worker_sends_heartbeat(self, queue_length: int) -> None:
        self.table.receive(queue_length=queue_length)

    @rule(models=MODELS)
    def engine_is_probed(self, models: tuple[Any, ...]) -> None:
        self.table.report(self.table.children["gpu"], status_of(*models))

    @rule()
    def engine_is_down(self) -> None:
        self.table.mark_down(self.table.children["gpu"], "refused")

    @rule(name=NAMES, seconds=st.sampled_from([0.0, 1.0, 30.0]))
    def eject(self, name: str, seconds: float) -> None:
        if name in self.table.children:
            eject(self.table, self.table.children[name], seconds, "broke")

    @rule(late=st.booleans())
    def engine_is_late(self, late: bool) -> None:
        engine = self.table.children["gpu"]
        if late:
            self.table.suspect(engine, "it is late")
        else:
            self.table.trust(engine)

    @rule(name=NAMES, draining=st.booleans())
    def drain(self, name: str, draining: bool) -> None:
        if name in self.table.children:
            self.table.set_drain(name, Drain() if draining else None)

    @rule(name=NAMES.filter(lambda name: name != "gpu"))
    def remove(self, name: str) -> None:
        self.table.remove(name)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.999, 3.0, 10.0, 45.0, 90.0]))
    def time_passes(self, seconds: float) -> None:
        self.table.clock.tick(seconds)

    @rule()
    def sweep(self) -> None:
        gone = self.table.sweep()
        assert all(child.name not in self.table.children and not child.declared for child in gone)

    @invariant()
    def the_cache_equals_a_fresh_computation(self) -> None:
        now = self.table.clock.now
        usable = [child for child in self.table if child.state(now) in ("up", "suspect")]
        for name in "mn":
            for key in ((name, api) for api in get_args(Api)):
                shares = self.table.available(key)
                serving = [child.shares[key] for child in usable if key in child.shares]
                preferred = [share for share in serving if share.child.suspect is None]
                assert (len(shares), set(shares)) == (len(preferred or serving), set(preferred or serving))
                assert self.table.available(key) is shares or not shares
        reported = [child for child in self.table if child.state(now) in ("up", "suspect", "ejected")]
        assert self.table.status() == aggregate(child.current(now) for child in reported)
        assert self.table.model_names() == sorted({key[0] for child in reported for key in child.shares})

    @invariant()
    def a_change_of_speed_gives_a_new_list(self) -> None:
        """Policies cache the speeds of a list, so the same list must keep them."""
        shares = self.table.available(OPENAI)
        speeds = [share.speed for share in shares]
        before = getattr(self, "kept", None)
        if before is not None and before[0] is shares:
            assert before[1] == speeds
        self.kept = (shares, speeds)


AvailableMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestAvailable = AvailableMachine.TestCase

numbers = st.integers(-1, 10**10) | st.floats() | st.none()
malformed = st.fixed_dictionaries(
    {},
    optional={
        "node": st.sampled_from(["site-a", "gpu", "", "x/y"]),
        "instance": st.sampled_from(["site-a-1", "root-1", ""]),
        "worker_name": st.sampled_from([WORKER, "http://site-a:21001", "http://root:21001", "http://1.2.3.999", "x"]),
        "seq": numbers,
        "seen": numbers,
        "speed": numbers,
        "queue_length": numbers,
        "interval_s": numbers,
        "models": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from("mn")}, optional={"speed": numbers, "queue_length": numbers})
        ),
        "path": st.lists(st.sampled_from(["root-1", "a"])),
        "children": st.dictionaries(st.text(max_size=2), st.dictionaries(st.just("children"), numbers)),
    },
)


@given(st.lists(st.tuples(st.booleans(), malformed), max_size=8))
def test_false_reports_are_refused_or_harm_no_other_child(messages: list[tuple[bool, dict[str, Any]]]) -> None:
    table = Table()
    engine = table.declare("gpu", "http://gpu:1", "vllm")
    table.report(engine, status_of(model()))
    leases = []
    for whole, fields in messages:
        table.clock.tick(0.5)
        try:
            if whole:
                table.add({**site(), **fields})
            else:
                table.receive({**report(), **fields})
        except RequestError:
            pass
        leases += [share.child.lease(share) for share in table.available(OPENAI)]
        assert table.children["gpu"] is engine
        assert "gpu" in table.available_names()
        status = table.status()
        assert 0 < status.speed < float("inf")
        assert status.queue_length >= engine.in_flight
    for lease in leases:
        lease.release()
    assert all(child.in_flight == 0 for child in table)
    assert (engine.load(OPENAI), engine.total.value) == (0, 0)
