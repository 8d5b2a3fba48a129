"""Whether a model is loaded at a child, and how long loading it takes there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.registry.child import Child, Share
from tests.builders import OPENAI, Table, model, report, site, status_of


def engine(table: Table, load_s: float = 10.0) -> tuple[Child, Share]:
    child = table.declare("gpu", "http://gpu:1", "ollama")
    table.report(child, status_of(model(load_s=load_s)))
    return child, child.shares[OPENAI]


def test_a_load_is_measured_from_the_request_to_the_first_byte() -> None:
    table = Table()
    child, share = engine(table)
    assert share.load_s == 10.0
    lease = child.lease(share)
    table.begin_load(share)
    table.clock.tick(4)
    later = child.lease(share)
    table.begin_load(share)  # it waits with the first one
    table.clock.tick(2)
    table.loaded(share)
    assert (share.load_s, share.load_time) == (0.0, 6.0)
    assert table.tally.loads == [(share, 6.0)]
    lease.release()
    later.release()


def test_a_load_is_measured_from_the_request_to_the_probe_that_finds_the_model() -> None:
    table = Table()
    child, share = engine(table)
    child.lease(share)
    table.begin_load(share)
    table.clock.tick(3)
    before = table.generation
    table.report(child, status_of(model()))
    assert (share.load_s, share.load_time) == (0.0, 3.0)
    assert table.generation > before


def test_what_was_measured_counts_the_next_time_and_half_of_what_was_before() -> None:
    table = Table()
    child, share = engine(table)
    for seconds, mean in ((20, 20.0), (10, 15.0), (5, 10.0)):
        table.report(child, status_of(model(load_s=10.0)))
        lease = child.lease(share)
        table.begin_load(share)
        table.clock.tick(seconds)
        table.loaded(share)
        lease.release()
        assert share.load_time == mean
        table.clock.tick(5)
    table.report(child, status_of(model(load_s=10.0)))
    assert share.load_s == 10.0


def test_a_load_that_others_began_is_not_measured() -> None:
    table = Table()
    child, share = engine(table)
    table.clock.tick(50)
    table.report(child, status_of(model()))
    assert (share.load_s, share.load_time, table.tally.loads) == (0.0, 0.0, [])


def test_a_request_that_failed_began_no_load() -> None:
    table = Table()
    child, share = engine(table)
    lease = child.lease(share)
    table.begin_load(share)
    table.clock.tick(300)
    lease.release()
    child.lease(share)
    table.begin_load(share)
    table.clock.tick(7)
    table.loaded(share)
    assert share.load_time == 7.0


def test_a_probe_that_began_before_a_load_ended_is_not_believed() -> None:
    table = Table()
    child, share = engine(table)
    table.loaded(share)
    table.clock.tick(1)
    table.report(child, status_of(model(load_s=10.0)))
    assert share.load_s == 0.0
    table.clock.tick(2)
    table.report(child, status_of(model(load_s=10.0)))
    assert share.load_s == 10.0


def test_how_long_a_site_takes_is_as_it_reports() -> None:
    table = Table()
    child = table.add(site("a", model(load_s=42.5)))
    assert child.shares[OPENAI].load_s == 42.5
    assert table.status().models[0].load_s == 42.5
    table.receive(report("a", model()))
    assert table.status().models[0].load_s == 0.0
    table.clock.tick(3)
    table.receive(report("a", model(load_s=7.0), seq=3))
    assert table.status().models[0].load_s == 7.0


@given(
    st.lists(st.tuples(st.sampled_from(["cold", "warm", "lease", "release", "byte"]), st.integers(0, 5)), max_size=30)
)
def test_a_load_never_takes_less_than_nothing_and_ends_once(steps: list[tuple[str, int]]) -> None:
    table = Table()
    child, share = engine(table)
    leases = []
    for what, seconds in steps:
        table.clock.tick(seconds)
        if what in ("cold", "warm"):
            table.report(child, status_of(model(load_s=10.0 if what == "cold" else 0.0)))
        elif what == "lease":
            leases.append(child.lease(share))
            if share.load_s:
                table.begin_load(share)
        elif what == "release" and leases:
            leases.pop().release()
        elif what == "byte" and leases and share.load_s:
            table.loaded(share)
        assert share.load_s >= 0.0
        assert share.load_time >= 0.0
        assert share.load_s > 0.0 or share.load_began < 0.0
    assert all(took_s > 0 for _, took_s in table.tally.loads)
