"""What `topology` says of who may dial whom, held against what TCP does between each two machines."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hierarchy.cli import app
from hierarchy.topology.declared import DeclaredTree
from tests.subnets.network import Network, Pairs, address
from tests.subnets.tree import BOTH, DIRECT, ENGINES, ISOLATED, NODES, REVERSE, UP, written
from tests.trees import load_tree

PORT = 21009
MACHINES = [*NODES, *ENGINES]
FIREWALLS = {
    "only up": UP,
    "both ways": BOTH,
    "only down, and across": (("dmz", "site-b"), ("site-a", "rack"), ("site-b", "site-a")),
}

Verdicts = dict[tuple[str, str], str]  #: (from, to): what `inside.py dial` said


@pytest.fixture(scope="module", params=FIREWALLS)
def firewall(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def predicted(firewall: str, tmp_path_factory: pytest.TempPathFactory) -> DeclaredTree:
    return load_tree(written(tmp_path_factory.mktemp("predicted"), FIREWALLS[firewall], DIRECT))


@pytest.fixture(scope="module")
def listening(network: Network) -> Network:
    """The network with somebody who listens on each machine."""
    for machine in MACHINES:
        process = network.inside(machine, "listen", str(PORT))
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"listening": PORT}
    return network


@pytest.fixture(scope="module")
def dialled(firewall: str, listening: Network) -> Verdicts:
    """How it went when each machine dialled each other."""
    listening.open(FIREWALLS[firewall])
    at = {machine: f"{address(machine)}:{PORT}" for machine in MACHINES}
    said = listening.dial(dict.fromkeys(MACHINES, at.values()))
    return {(source, target): said[source][at[target]] for source, target in permutations(MACHINES, 2)}


@pytest.mark.parametrize(("source", "target"), [*permutations(MACHINES, 2)])
def test_a_connection_opens_where_it_may(source: str, target: str, predicted: DeclaredTree, dialled: Verdicts) -> None:
    assert (dialled[source, target] == "open") is predicted.may_dial(source, target)


def test_what_may_not_be_dialled_is_dropped_or_has_no_route(dialled: Verdicts) -> None:
    assert set(dialled.values()) <= {"open", "silent", "no route"}
    assert {dialled[above, "gpu-rack"] for above in ("root", "site-b")} == {"no route"}


DOWN_IS_SHUT = [
    f"{line}: nodes.{child}.parent: {parent} ({above}) cannot dial {child} ({child}); "
    f"add [{above}, {child}] to `reach`, or set `link: reverse`, since {child} may dial {parent}"
    for line, child, parent, above in (
        (7, "site-a", "root", "dmz"),
        (8, "site-b", "root", "dmz"),
        (9, "rack", "site-a", "site-a"),
    )
]


@pytest.mark.parametrize(
    ("reach", "links", "expected"),
    [(UP, DIRECT, DOWN_IS_SHUT), (UP, REVERSE, []), (UP, ISOLATED, []), (BOTH, DIRECT, [])],
)
def test_check_names_each_edge_that_cannot_be_dialled(
    reach: Pairs, links: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    path = written(tmp_path, reach, links)
    result = CliRunner().invoke(app, ["check", str(path)])
    said = [line.removeprefix(f"{path}:") for line in result.output.splitlines()]
    assert said == (expected or ["OK: 4 nodes, 3 engines, depth 3"])
    assert result.exit_code == bool(expected)
