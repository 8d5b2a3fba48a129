"""`hierarchy check CONFIG --risks`, as tables."""

from __future__ import annotations

import networkx as nx
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hierarchy.runtime.logs import escape
from hierarchy.topology.risks import Bottleneck, Engines, Risk, Risks, name_of

MANY = 0.5  # of the tree's speed, from which a loss is shown in red


def show_risks(graph: nx.DiGraph, root: str) -> None:
    """Print what each node and link takes away, and each model's bottleneck."""
    risks = Risks(graph, root)
    console = Console(highlight=False)
    whole = risks.sum(risks.engines)
    console.print(
        Text.assemble(
            ("node ", ""),
            (escape(root), "bold"),
            f" takes everything: {_engines(whole)}, {_count(len(risks.models), 'model')}. Besides it, the loss of one",
        )
    )
    console.print(_losses(risks.all()))
    if risks.models:
        console.print(Text("\nWhat each model hangs on"))
        console.print(_bottlenecks(risks.bottlenecks()))
    if risks.unnamed:
        names = ", ".join(map(escape, risks.unnamed))
        mend = "give `models:`, or --live URL to see what runs."
        console.print(Text(f"\nWhich models these serve is not declared: {names}; {mend}", "yellow"))


def _losses(found: list[Risk]) -> Table:
    table = _table("node or link", "engines", "speed", "of all", "models lost", "models weakened")
    for risk in found:
        colour = "red" if risk.models or risk.engines.part >= MANY else ""
        table.add_row(
            Text(escape(" or ".join(map(name_of, risk.points))), colour),
            str(risk.engines.count),
            f"{risk.engines.speed:g}",
            _percent(risk.engines.part),
            Text(", ".join(map(escape, risk.models)) or "-", "red" if risk.models else "dim"),
            Text(", ".join(map(escape, risk.weakened)) or "-", "" if risk.weakened else "dim"),
        )
    return table


def _bottlenecks(found: list[Bottleneck]) -> Table:
    table = _table("model", "engines", "speed", "bottleneck", "left without it")
    for weak in found:
        if weak.worst is None:
            where, left = Text(" > ".join(escape(point[0]) for point in weak.alone), "red"), Text("nothing", "red")
        else:
            where, left = Text(escape(weak.worst[0])), Text(f"{_engines(weak.left)} ({_percent(weak.left.part)})")
        table.add_row(escape(weak.model), str(weak.engines.count), f"{weak.engines.speed:g}", where, left)
    return table


def _table(first: str, *heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, overflow="fold")
    for head in heads:
        number = head in ("engines", "speed", "of all")
        table.add_column(head, justify="right" if number else "left", overflow="fold")
    return table


def _engines(engines: Engines) -> str:
    return f"{_count(engines.count, 'engine')} of speed {engines.speed:g}"


def _percent(part: float) -> str:
    return f"{part:.0%}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
