"""The tables of `hierarchy check CONFIG --risks`."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hierarchy.cli.output import count
from hierarchy.runtime.logs import escape
from hierarchy.topology.graph import TreeGraph
from hierarchy.topology.risks import Bottleneck, Capacity, Risk, Risks, describe

LARGE_LOSS = 0.5  # part of the tree's speed; such a loss is shown in red


def show_risks(graph: TreeGraph, root: str) -> None:
    """Print what the loss of each node and link takes away, and the bottleneck of each model."""
    risks = Risks(graph, root)
    console = Console(highlight=False)
    models = f" and {count(len(risks.models), 'model')}" if risks.models else ""
    whole = f"{_engines(risks.capacity(risks.engines))}{models}"
    console.print(Text.assemble("Without node ", (escape(root), "bold"), f" everything is lost: {whole}."))
    found = risks.all()
    if found:
        console.print(Text("\nWhat the loss of another node or link takes away"))
        console.print(_losses(found))
    if risks.models:
        console.print(Text("\nWhat each model depends on"))
        console.print(_bottlenecks(risks.bottlenecks()))
    if risks.unknown_models:
        names = ", ".join(map(escape, risks.unknown_models))
        hint = "add `models`, or use --live URL to see what runs"
        console.print(Text(f"\nThe models of these engines are not declared: {names}; {hint}", "yellow"))


def _losses(found: list[Risk]) -> Table:
    table = _table("node or link", "engines", "speed", "of all", "models lost", "models weakened")
    for risk in found:
        colour = "red" if risk.lost_models or risk.lost.part >= LARGE_LOSS else ""
        table.add_row(
            Text(escape(" or ".join(map(describe, risk.points))), colour),
            str(risk.lost.count),
            f"{risk.lost.speed:g}",
            _percent(risk.lost.part),
            Text(", ".join(map(escape, risk.lost_models)) or "-", "red" if risk.lost_models else "dim"),
            Text(", ".join(map(escape, risk.weakened_models)) or "-", "" if risk.weakened_models else "dim"),
        )
    return table


def _bottlenecks(found: list[Bottleneck]) -> Table:
    table = _table("model", "engines", "speed", "bottleneck", "left without it")
    for weak in found:
        if weak.worst is None:
            where, left = Text(" > ".join(escape(point[0]) for point in weak.critical), "red"), Text("nothing", "red")
        else:
            where, left = Text(escape(weak.worst[0])), Text(f"{_engines(weak.left)} ({_percent(weak.left.part)})")
        table.add_row(escape(weak.model), str(weak.serving.count), f"{weak.serving.speed:g}", where, left)
    return table


def _table(first: str, *heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, overflow="fold")
    for head in heads:
        number = head in ("engines", "speed", "of all")
        table.add_column(head, justify="right" if number else "left", overflow="fold")
    return table


def _engines(engines: Capacity) -> str:
    return f"{count(engines.count, 'engine')} of speed {engines.speed:g}"


def _percent(part: float) -> str:
    return f"{part:.0%}"
