"""A message that was prepared in steps changes the same as one that was not, whatever happens between its steps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchy.errors import InvalidField
from hierarchy.registry.child import Child
from hierarchy.registry.prepared import AT_ONCE, Prepared, prepare
from hierarchy.runtime.steps import at_once
from hierarchy.wire.messages import HeartBeat, Registration
from tests.builders import OPENAI, Table, heart_beat, model, registration, report, site

MODELS = st.lists(
    st.builds(
        model,
        st.sampled_from("mnop"),
        st.sampled_from([1.0, 2.0]),
        st.integers(0, 3),
        slots=st.sampled_from([0, 2]),
        avoid=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda row: row.key,
)


def prepared(table: Table, message: Registration | HeartBeat, child: Child | None) -> Prepared:
    return at_once(prepare(message, child, table.max_speed, table.limits, None, None))


def shown(table: Table) -> Any:
    """What a table says of its children."""
    shares = {
        key: (share.value, share.speed, share.slots, share.score, share.busy, share.open)
        for key, share in _shares(table)
    }
    return shares, table.status(), table.model_names(), table.index.order


def _shares(table: Table) -> Any:
    return [((child.name, *key), share) for child in table for key, share in child.shares.items()]


@settings(max_examples=60)
@given(st.lists(st.tuples(MODELS, st.booleans(), st.sampled_from(["", "lease", "release", "report"])), max_size=6))
def test_it_changes_what_it_would_at_once(steps: list[tuple[Any, bool, str]]) -> None:
    tables = Table(), Table()
    leases: list[list[Any]] = [[], []]
    for number, (models, is_whole, between) in enumerate(steps, start=1):
        for table, open_leases in zip(tables, leases, strict=True):
            seq, known = 2 * number, table.children.get("site-a")
            is_whole |= known is None
            page = (site if is_whole else report)("site-a", *models or [model()], seq=seq, seen=number)
            message = registration(page) if is_whole else heart_beat(page)
            ready = prepared(table, message, known) if table is tables[0] else None
            if between == "lease" and known is not None and OPENAI in known.shares:
                open_leases.append(known.lease(known.shares[OPENAI]))
            elif between == "release" and open_leases:
                open_leases.pop().release()
            elif between == "report" and known is not None:
                table.receive(report("site-a", model("m"), model("q"), seq=seq - 1))
            if isinstance(message, Registration):
                table.register(message, ready=ready)
            else:
                table.heart_beat(message, ready)
        assert shown(tables[0]) == shown(tables[1])


def test_nothing_changes_before_it_is_applied() -> None:
    table = Table()
    child = table.add(site("site-a", model("m", 1.0, 5)))
    before = shown(table)
    prepared(table, heart_beat(report("site-a", model("m", 2.0, 7), model("n"))), child)
    assert shown(table) == before
    assert child.shares[OPENAI].value == 5


def test_ten_thousand_models_take_many_steps() -> None:
    table = Table()
    message = registration(site("site-a", *(model(f"m{number}") for number in range(20 * AT_ONCE))))
    steps = prepare(message, None, table.max_speed, table.limits, None, None)
    assert sum(1 for _ in steps) >= 3 * 20  # names, values, shares


def test_a_report_of_the_same_models_keeps_the_shares() -> None:
    table = Table()
    child = table.add(site("site-a", model("m"), model("n")))
    shares = child.shares
    message = heart_beat(report("site-a", model("n", 1.0, 3), model("m")))
    assert table.heart_beat(message, prepared(table, message, child))
    assert child.shares is shares
    assert child.load(("n", "openai")) == 3


def test_a_value_that_is_not_allowed_is_found_with_its_place() -> None:
    table = Table()
    models = [model(f"m{number}") for number in range(2 * AT_ONCE)] + [model("bad", -1.0)]
    with pytest.raises(InvalidField, match=rf"models\[{2 * AT_ONCE}\]\.speed"):
        prepared(table, registration(site("site-a", *models)), None)
