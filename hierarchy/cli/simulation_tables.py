"""The tables of `hierarchy simulate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from hierarchy.runtime.logs import escape

if TYPE_CHECKING:
    from hierarchy.simulation.measures import Phase, Result


def show(results: Sequence[Result], marks: Sequence[tuple[str, float]] = ()) -> None:
    """Print what was measured, and then the same by model, and before and after each of the marks.

    marks: what happened, and when.
    """
    console = Console(highlight=False)
    console.print(_summary(results))
    for head, of in (
        ("model", [result.models for result in results]),
        ("phase", [result.phases for result in results]),
    ):
        if any(of):
            console.print()
            console.print(_parts(head, results, of))
    first = results[0]
    for name, at_s in marks:
        if not first.counted_from_s <= at_s < first.simulated_s:
            console.print(
                f"{escape(name)} at {at_s:g} s, but what is counted begins from {first.counted_from_s:.0f} s to "
                f"{first.simulated_s:.0f} s: choose another moment, or set --warm-up",
                style="yellow",
            )
    for result in results:
        if not result.is_steady:
            console.print(
                f"{result.policy}: the load was still growing when it ended; use more --chats for figures to rely on",
                style="yellow",
            )


def _summary(results: Sequence[Result]) -> Table:
    table = _table("", *(result.policy for result in results))
    rows: list[tuple[str, Callable[[Result], str]]] = [
        ("requests counted", lambda one: str(one.requests)),
        ("requests failed", lambda one: str(one.failed)),
        ("time to first token: mean", lambda one: seconds(one.ttft.mean)),
        ("  median", lambda one: seconds(one.ttft.p50)),
        ("  99th percentile", lambda one: seconds(one.ttft.p99)),
        ("prompt tokens from the cache", lambda one: f"{one.hit_rate:.1%}"),
        ("requests/s per engine", lambda one: f"{one.requests_per_s:.2f}"),
        ("slots in use: mean", lambda one: f"{one.busy:.0%}"),
        ("  of the idlest engine", lambda one: f"{one.busy_least:.0%}"),
        ("  of the busiest engine", lambda one: f"{one.busy_most:.0%}"),
        ("wait for a slot: mean", lambda one: seconds(one.wait.mean)),
        ("  99th percentile", lambda one: seconds(one.wait.p99)),
        ("slots idle while others wait", lambda one: f"{one.idle_while_waiting:.2%}"),
    ]
    for name, of in rows:
        table.add_row(name, *map(of, results))
    return table


def _parts(head: str, results: Sequence[Result], of: Sequence[Sequence[Phase]]) -> Table:
    table = _table("policy", head, "requests", "TTFT mean", "median", "99 %", "hit rate")
    for result, phases in zip(results, of, strict=True):
        for phase in phases:
            table.add_row(
                result.policy,
                escape(phase.name),
                str(phase.requests),
                *map(seconds, (phase.ttft.mean, phase.ttft.p50, phase.ttft.p99)),
                f"{phase.hit_rate:.1%}",
            )
    return table


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in heads:
        table.add_column(head, justify="left" if head in ("", "policy", "model", "phase") else "right", overflow="fold")
    return table


def seconds(value: float) -> str:
    """A time with three digits."""
    if value >= 0.9995:  # what is less is below 1000 ms when it is rounded
        return f"{value:.3g} s" if value < 999.5 else f"{value:.0f} s"
    return "0" if value == 0 else f"{value * 1000:.3g} ms"
