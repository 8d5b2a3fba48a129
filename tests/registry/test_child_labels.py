"""What is known of a child's labels, and what it says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from hierarchy.labels import CLOSED, MAX_SETS, OTHER, Requirement
from hierarchy.registry.child_labels import ChildLabels
from hierarchy.wire.offer import NOTHING, Offer
from tests.builders import Table, model, report, site

EU, US = {"region": "eu"}, {"region": "us"}
IN_EU, FROM_PARENT = Requirement(EU), Requirement(EU, ["region"])


@pytest.mark.parametrize(
    ("declared", "token", "bound", "client", "parent"),
    [
        (None, None, CLOSED, False, False),  # it registered, and nothing is known of it
        (None, EU, {**EU, **CLOSED}, True, True),
        (None, US, {**US, **CLOSED}, False, False),
        ({}, None, {}, False, True),  # of the configuration: what the node above says of all holds for it, too
        (EU, None, EU, True, True),
        (US, None, US, False, False),
        (US, EU, US, False, False),  # the configuration is newer than the token
        ({"trust": "own"}, EU, {"trust": "own", **EU}, True, True),
        ({"region": "eu/us"}, None, {"region": "eu/us"}, False, False),
        ({"region": f"{OTHER}/eu"}, None, {"region": f"{OTHER}/eu"}, False, False),
    ],
)
def test_what_a_child_is_known_by(
    declared: dict[str, str] | None, token: dict[str, str] | None, bound: dict[str, str], client: bool, parent: bool
) -> None:
    labels = ChildLabels()
    assert not labels.can("m", IN_EU)
    labels.bind(declared, token)
    assert labels.bound == bound
    assert labels.can("m", IN_EU) is client
    assert labels.can("m", FROM_PARENT) is parent
    assert not labels.bind(declared, token)


@pytest.mark.parametrize(
    ("bound", "said", "can", "ignored"),
    [
        (EU, [{}], True, ()),
        (EU, [EU], True, ()),
        (EU, [US], False, ("region=us",)),
        (EU, [US, EU], True, ("region=us",)),
        (EU, [US, {}], True, ("region=us",)),
        (EU, [{"region": ""}], False, ()),
        (EU, [], False, ()),
        (EU, [{"*": ""}], False, ()),
        (EU, [{"trust": "own"}], True, ()),
        (US, [EU], False, ("region=eu",)),
        ({"region": "eu/us"}, [EU], True, ()),
        ({"region": "eu/us"}, [US], False, ()),
        ({"region": "eu/us"}, [{"region": "ch"}], False, ("region=ch",)),
        ({"region": f"{OTHER}/eu"}, [EU], True, ()),
        ({"region": f"{OTHER}/eu"}, [US], False, ("region=us",)),
        ({}, [EU], False, ()),
        (EU, [{"region": "eu", "bad name": "x"}], False, ("(unreadable)",)),
        (EU, [{"region": "eu"}] * (MAX_SETS + 1), False, ()),
    ],
)
def test_what_a_child_says_only_takes_away(
    bound: dict[str, str], said: list[dict[str, str]], can: bool, ignored: tuple[str, ...]
) -> None:
    labels = ChildLabels()
    labels.bind(bound)
    labels.take([Offer(said, ["m"])])
    assert labels.can("m", IN_EU) is can
    assert labels.ignored == ignored
    # Of all other models it says nothing.
    assert labels.can("other", IN_EU) is IN_EU.met_by(bound)
    labels.take([NOTHING])
    assert not labels.can("m", IN_EU)
    assert labels.take([])
    assert labels.can("m", IN_EU) is IN_EU.met_by(bound)


def test_a_child_that_joined_without_labels_gains_nothing_by_its_words() -> None:
    labels = ChildLabels()
    labels.bind(None)
    labels.take([Offer([EU], ["m"]), Offer([EU])])
    assert not labels.can("m", IN_EU)
    assert not labels.can("m", FROM_PARENT)
    assert labels.rows("m") == ()
    assert labels.ignored == ("region=eu",)


@pytest.fixture
def table() -> Table:
    return Table()


def names(table: Table, requirement: Requirement) -> set[str]:
    return {share.child.name for share in table.allowed(("m", "openai"), requirement)}


def offer(*sets: dict[str, str], models: list[str] | None = None) -> list[dict[str, Any]]:
    return [{"sets": list(sets), "models": models}]


def test_registrations_and_reports_change_who_is_available_at_once(table: Table) -> None:
    table.declare_labels({"site-a": EU, "site-b": EU})
    table.add(site())
    table.add(site("site-b", labels=offer(US)))
    assert names(table, IN_EU) == {"site-a"}
    table.receive(report("site-a", model(), labels=offer(US)))
    assert names(table, IN_EU) == set()
    table.receive(report("site-a", model(), seq=3))  # it says nothing new
    assert names(table, IN_EU) == set()
    table.receive(report("site-b", model(), labels=[]))
    assert names(table, IN_EU) == {"site-b"}
    table.add(site("site-a", seq=4))  # a registration says everything again
    assert names(table, IN_EU) == {"site-a", "site-b"}
    table.declare_labels({"site-a": US, "site-b": {}})
    assert names(table, IN_EU) == set()
    assert names(table, FROM_PARENT) == {"site-b"}
    assert table.labels_ignored == 2


def test_an_engine_has_what_the_configuration_says(table: Table) -> None:
    table.declare_labels({"gpu": EU})
    for name in ("gpu", "other"):
        engine = table.declare(name, f"http://{name}:1", "vllm")
        table.report(engine, table_status())
    assert names(table, IN_EU) == {"gpu"}
    assert names(table, FROM_PARENT) == {"gpu", "other"}


def table_status() -> Any:
    from tests.builders import status_of

    return status_of(model())


def test_nothing_is_remembered_of_a_token_that_was_replaced(table: Table) -> None:
    from tests.builders import registration

    table.register(registration(site()), "token-1", labels=EU)
    assert names(table, IN_EU) == {"site-a"}
    table.depart("site-a")
    table.register(registration(site(instance="site-a-2", seq=1)), "token-2")
    assert names(table, IN_EU) == set()


def test_what_does_not_fit_or_names_no_model_is_refused(table: Table) -> None:
    from hierarchy.errors import InvalidField

    for labels in (offer(models=[""]), offer(models=["x" * 300]), offer(*[{f"l{n}": "v" * 60} for n in range(90_000)])):
        with pytest.raises(InvalidField, match="labels"):
            table.add(site(labels=labels))
