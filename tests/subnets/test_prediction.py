"""The topology's prediction of which machine can dial which, compared with real TCP connections."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hierarchy.cli.program import app
from hierarchy.topology.declared import DeclaredTree
from tests.subnets.network import Network, Pairs, address
from tests.subnets.tree import BOTH, DIRECT, ENGINES, ISOLATED, NODES, REVERSE, UP, write_yaml
from tests.trees import load_tree

pytestmark = pytest.mark.slow

PORT = 21009
MACHINES = [*NODES, *ENGINES]
FIREWALLS = {
    "only up": UP,
    "both ways": BOTH,
    "only down, and across": (("dmz", "site-b"), ("site-a", "rack"), ("site-b", "site-a")),
}

Results = dict[tuple[str, str], str]  #: (from, to): result of `agent.py dial`


@pytest.fixture(scope="module", params=FIREWALLS)
def firewall(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def predicted(firewall: str, tmp_path_factory: pytest.TempPathFactory) -> DeclaredTree:
    return load_tree(write_yaml(tmp_path_factory.mktemp("predicted"), FIREWALLS[firewall], DIRECT))


@pytest.fixture(scope="module")
def listening(network: Network) -> Network:
    """The network, with a program that listens on each machine."""
    for machine in MACHINES:
        process = network.start_agent(machine, "listen", str(PORT))
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"listening": PORT}
    return network


@pytest.fixture(scope="module")
def dialled(firewall: str, listening: Network) -> Results:
    """The results when each machine dialled all others."""
    listening.allow(FIREWALLS[firewall])
    targets = {machine: f"{address(machine)}:{PORT}" for machine in MACHINES}
    results = listening.dial(dict.fromkeys(MACHINES, targets.values()))
    return {(source, target): results[source][targets[target]] for source, target in permutations(MACHINES, 2)}


@pytest.mark.parametrize(("source", "target"), [*permutations(MACHINES, 2)])
def test_exactly_the_predicted_connections_open(
    source: str, target: str, predicted: DeclaredTree, dialled: Results
) -> None:
    assert (dialled[source, target] == "open") is predicted.may_dial(source, target)


def test_other_connections_are_dropped_or_have_no_route(dialled: Results) -> None:
    assert set(dialled.values()) <= {"open", "silent", "no route"}
    assert {dialled[above, "gpu-rack"] for above in ("root", "site-b")} == {"no route"}


DOWN_IS_CLOSED = [
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
    [(UP, DIRECT, DOWN_IS_CLOSED), (UP, REVERSE, []), (UP, ISOLATED, []), (BOTH, DIRECT, [])],
)
def test_check_names_each_edge_that_cannot_be_dialled(
    reach: Pairs, links: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    path = write_yaml(tmp_path, reach, links)
    result = CliRunner().invoke(app, ["check", str(path)])
    problems = [line.removeprefix(f"{path}:") for line in result.output.splitlines()]
    assert problems == (expected or ["OK: 4 nodes, 3 engines, depth 3"])
    assert result.exit_code == bool(expected)
