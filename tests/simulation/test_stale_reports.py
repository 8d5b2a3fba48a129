"""Several nodes above the same children: each knows its own requests, and learns those of the others late.

The figures in docs/explanation/load-and-leases.md are of longer simulations of such trees.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from hierarchy.simulation.load import Load
from hierarchy.simulation.prompt import Prompt
from hierarchy.simulation.request import Conversation, Turn
from hierarchy.simulation.run import Scenario, simulate
from hierarchy.simulation.tree import Hardware
from hierarchy.topology.declared import DeclaredTree, read_tree
from tests.simulation.support import tree

HARDWARE = Hardware(slots=8)
MEAN_S = 150 / 50 + 200 / 8000  # of a response


def single_requests(rate: float, length_s: float) -> Callable[[], Load]:
    """Poisson arrivals, exponential lengths, nothing in common."""

    def conversations(count: int) -> list[Conversation]:
        rng, now, made = Random(101), 0.0, []
        for number in range(count):
            now += rng.expovariate(rate)
            prompt = Prompt().then(number, 200)
            turn = Turn(0.0, prompt, max(1, round(rng.expovariate(1 / 150))), prompt)
            made.append(Conversation(now, number + 1, iter([turn])))
        return made

    count = int(rate * length_s)
    return lambda: Load(iter(conversations(count)), count, length_s / 4, 0.0, is_cut=True)


def probing(folder: Path, nodes: int, engines: int) -> DeclaredTree:
    """Replicas of one node, each of which probes all engines."""
    text = ["version: 1", "nodes:", '  root: {listen: "localhost:1"}']
    text += [f'  root-{n}: {{listen: "localhost:{n + 2}", replica_of: root}}' for n in range(nodes - 1)]
    text += ["engines:"]
    text += [
        f'  e-{n}: {{parent: root, kind: vllm, url: "http://10.0.0.{n + 1}:80", models: [m]}}' for n in range(engines)
    ]
    file = folder / "tree.yaml"
    file.write_text("\n".join(text) + "\n", "utf-8")
    return read_tree(file)


@pytest.mark.parametrize("shape", ["4 roots above 4 sites", "4 replicas that probe the same engines"])
def test_the_shortest_queue_is_better_than_the_better_of_two_though_reports_are_stale(
    shape: str, tmp_path: Path
) -> None:
    found = tree(tmp_path, roots=4, sites=4, engines=4) if "roots" in shape else probing(tmp_path, 4, 16)
    scenario = Scenario(found, single_requests(0.9 * 16 * 8 / MEAN_S, 60.0), HARDWARE)
    shortest, better_of_two = simulate(scenario, "shortest_queue"), simulate(scenario, "p2c")
    assert shortest.failed == better_of_two.failed == 0
    assert shortest.wait.mean < 0.7 * better_of_two.wait.mean
    assert shortest.idle_while_waiting < 0.7 * better_of_two.idle_while_waiting
