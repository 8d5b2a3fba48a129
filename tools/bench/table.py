"""Rows of results (figure, target, verdict), formatted for the terminal and for the page."""

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
    """One figure."""

    what: str
    value: float
    unit: str
    #: the target: the highest value allowed; None: the figure is information only
    limit: float | None = None
    #: the measurements that the value was computed from
    detail: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the target was reached; None if there is none."""
        return None if self.limit is None else self.value <= self.limit

    @property
    def share(self) -> float | None:
        """The value divided by the limit; None without a value or a limit above 0."""
        return self.value / self.limit if self.limit and math.isfinite(self.value) else None

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `HEADS`."""
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
    """A number with about three significant digits: `37.2 µs`, `1.42 × nginx`, `9,000`."""
    if not math.isfinite(value):
        return "nothing measured"
    size = abs(value)
    digits = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2 if size >= 0.1 else 3
    return f"{value:,.{digits}f} {unit}".rstrip()


def middle(values: Sequence[float]) -> float:
    """The median; NaN if there are no values."""
    return median(values) if values else math.nan


def ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """The median of the rounds' ratios: what disturbs a round disturbs both of its figures."""
    return middle([value / other for value, other in zip(values, others, strict=True) if other > 0])


def percentile(values: Sequence[float], part: float) -> float:
    """The percentile by nearest rank. part: 0.99 for p99. NaN if there are no values."""
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
    """The rows as a Markdown table."""
    lines = [HEADS, ("---", "---:", "---:", "---", "---"), *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def terminal(rows: Sequence[Row]) -> Table:
    """The rows as a table for the terminal."""
    table = Table(*HEADS, show_edge=False, pad_edge=False)
    for row in rows:
        colour = {True: "green", False: "red", None: "dim"}[row.reached]
        what, measured, limit, verdict, detail = row.cells
        table.add_row(what, Text(measured, justify="right"), limit, Text(verdict, colour), Text(detail, "dim"))
    return table
