"""Rows of results: figures, targets and verdicts, as text for a terminal and for a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table
from rich.text import Text

HEADS = ("what", "measured", "target", "verdict", "detail")


@dataclass(frozen=True)
class Row:
    """One figure. limit: the most that it may be; None: only for information. detail: what it was made of."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    detail: str = ""

    @property
    def reached(self) -> bool | None:
        """None where there is no target."""
        return None if self.limit is None else self.value <= self.limit

    @property
    def share(self) -> float | None:
        """The value as a part of the limit; None where that says nothing."""
        return self.value / self.limit if self.limit and math.isfinite(self.value) else None

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of `HEADS`."""
        return self.what, amount(self.value, self.unit), self._target, self._verdict, self.detail

    @property
    def _target(self) -> str:
        if self.limit is None:
            return "–"
        return f"{'≤ ' if self.limit else ''}{self.limit:g} {self.unit}".rstrip()

    @property
    def _verdict(self) -> str:
        if self.limit is None:
            return "–"
        if self.reached:
            return "reached"
        return "missed" if self.share is None else f"missed: {self.share:.2f} × the target"


def amount(value: float, unit: str) -> str:
    """A number with as many digits as mean something: `37.2 µs`, `1.42 × nginx`, `9,000`."""
    if not math.isfinite(value):
        return "nothing measured"
    size = abs(value)
    digits = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2 if size >= 0.1 else 3
    return f"{value:,.{digits}f} {unit}".rstrip()


def middle(values: Sequence[float]) -> float:
    """The median; NaN of nothing."""
    return median(values) if values else math.nan


def ratio(values: Sequence[float], beside: Sequence[float]) -> float:
    """The median of the rounds' own ratios: what disturbs one round disturbs both of its figures."""
    return middle([value / other for value, other in zip(values, beside, strict=True) if other > 0])


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of them does not exceed (nearest rank); NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def spread(values: Sequence[float], unit: str) -> str:
    """`37.2 µs (36.8–39.0)`: the median and the range of the rounds."""
    text = amount(middle(values), unit)
    if len(values) < 2:
        return text
    return f"{text} ({amount(min(values), '')}–{amount(max(values), '')})"


def markdown(rows: Sequence[Row]) -> str:
    """The table for docs/reference/benchmarks.md."""
    lines = [HEADS, ("---", "---:", "---:", "---", "---"), *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def terminal(rows: Sequence[Row]) -> Table:
    """The same for people."""
    table = Table(*HEADS, show_edge=False, pad_edge=False)
    for row in rows:
        colour = {True: "green", False: "red", None: "dim"}[row.reached]
        what, measured, wanted, verdict, detail = row.cells
        table.add_row(what, Text(measured, justify="right"), wanted, Text(verdict, colour), Text(detail, "dim"))
    return table
