"""A node's status is the sum over its children, whatever has happened since it was computed last."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from hierarchy.registry.child import Lease
from hierarchy.wire.status import NodeStatus, aggregate
from tests.builders import OPENAI, Table, eject, model, report, site, status_of

NAMES = ("a", "b", "c")
MODELS = st.lists(
    st.builds(
        model, st.sampled_from(["m", "n", "o"]), st.sampled_from([1.0, 2.0]), st.integers(0, 3), avoid=st.booleans()
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda row: row.key,
)


def from_scratch(table: Table) -> NodeStatus:
    now = table.clock()
    return aggregate(child.current(now) for child in table if child.serves_now(now))


class Machine(RuleBasedStateMachine):
    """Everything that changes a status; now and then it is compared with the whole sum."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.leases: list[Lease] = []
        self.seq = 1
        self.engine = self.table.declare("gpu", "http://gpu:1", "vllm")

    @rule(name=st.sampled_from(NAMES), models=MODELS)
    def register(self, name: str, models: Any) -> None:
        self.seq += 1
        self.table.add(site(name, *models, seq=self.seq))

    @rule(name=st.sampled_from(NAMES), models=MODELS, seen=st.integers(0, 5), draining=st.booleans())
    def report(self, name: str, models: Any, seen: int, *, draining: bool) -> None:
        self.seq += 1
        self.table.receive(report(name, *models, seq=self.seq, seen=seen, draining=draining))

    @rule(models=MODELS)
    def probe(self, models: Any) -> None:
        self.table.report(self.engine, status_of(*models))

    @rule(data=st.data())
    def lease(self, data: Any) -> None:
        shares = [share for child in self.table for share in child.shares.values()]
        if shares:
            share = data.draw(st.sampled_from(shares))
            self.leases.append(share.child.lease(share))

    @rule(data=st.data())
    def release(self, data: Any) -> None:
        if self.leases:
            self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1))).release()

    @rule(data=st.data(), what=st.sampled_from(["down", "suspect", "trust", "eject", "asleep", "remove"]))
    def change(self, data: Any, what: str) -> None:
        child = data.draw(st.sampled_from(list(self.table)))
        if what == "down":
            self.table.mark_down(child, "refused")
        elif what == "suspect":
            self.table.suspect(child, "late")
        elif what == "trust":
            self.table.trust(child)
        elif what == "eject":
            eject(self.table, child, 3, "bad")
        elif what == "asleep":
            self.table.set_asleep(child, not child.asleep)
        elif not child.declared:
            self.table.remove(child.name)

    @rule(data=st.data())
    def fail(self, data: Any) -> None:
        shares = [share for child in self.table for share in child.shares.values()]
        if shares:
            self.table.failed(data.draw(st.sampled_from(shares)), "error", "bad", elsewhere=True)

    @rule(seconds=st.sampled_from([0.5, 2, 20]))
    def wait(self, seconds: float) -> None:
        self.table.clock.tick(seconds)

    @rule()
    def sweep(self) -> None:
        self.table.sweep()

    @rule()
    def is_the_whole_sum(self) -> None:
        assert self.table.status() == from_scratch(self.table)

    def teardown(self) -> None:
        self.is_the_whole_sum()
        running = [lease for lease in self.leases if not lease.released]
        assert self.table.tally.open == len(running)


TestTotals = Machine.TestCase
TestTotals.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_only_what_changed_is_summed_again() -> None:
    table = Table()
    for number in range(200):
        table.add(site(f"site-{number}", *(model(f"m-{number}-{n}") for n in range(5))))
    totals = table._totals
    first = table.status()
    assert (len(first.models), totals.summed) == (1000, 1000)
    assert table.status() is first
    child = table.children["site-7"]
    child.lease(next(iter(child.shares.values())))
    assert table.status().queue_length == 1
    assert totals.summed == 1001


def test_only_children_whose_load_has_changed_are_looked_at() -> None:
    looked_at = list[None]()

    class Counted(Table):
        def __iter__(self) -> Any:
            looked_at.append(None)
            return super().__iter__()

    table = Counted()
    for number in range(5):
        table.add(site(f"site-{number}"))
    table.status()
    looked_at.clear()
    child = table.children["site-2"]
    lease = child.lease(child.shares[OPENAI])
    assert table.status().queue_length == 1
    lease.release()
    table.receive(report("site-3", model(queue_length=7)))
    assert table.status().queue_length == 7
    assert not looked_at
    table.clock.tick(2.5)
    table.receive(report("site-1", seq=3))
    table.clock.tick(0.5)  # all others are silent
    assert [(row.name, row.speed) for row in table.status().models] == [("m", 1.0)]


def test_what_is_counted_over_all_children() -> None:
    table = Table()
    children = [table.add(site("site-1")), table.declare("gpu", "http://gpu:1", "vllm")]
    table.report(children[1], status_of(model()))
    leases = [child.lease(child.shares[OPENAI]) for child in children for _ in range(2)]
    assert (table.tally.sent, table.tally.open) == (4, 4)
    leases[0].release()
    leases[0].release()
    table.remove("site-1")
    assert (table.tally.sent, table.tally.open) == (4, 3)  # they still run
    for lease in leases:
        lease.release()
    assert (table.tally.sent, table.tally.open) == (4, 0)
    table.forget_candidates()
    assert table.tally.changed == []  # nothing is kept of what has gone
