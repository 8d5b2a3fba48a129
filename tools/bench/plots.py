"""Bar charts as SVG, without a plotting library: labels, bars, values, and a dashed line for the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.table import Row, amount

WIDTH, LABELS, VALUES, TOP, BAR, GAP = 860, 330, 120, 44, 20, 8  # pixels
COLOURS = {"hierarchy": "#2563a8", "missed": "#b3382c", "other": "#8a8f98"}


@dataclass(frozen=True)
class Bar:
    """One bar."""

    label: str
    value: float
    #: a key of `COLOURS`
    colour: str = "other"


def bars(title: str, unit: str, rows: Sequence[Bar], line: float | None = None) -> str:
    """A chart of horizontal bars that start at zero. line: the value at which to draw a vertical dashed line."""
    height = TOP + len(rows) * (BAR + GAP) + GAP
    longest = max([row.value for row in rows] + ([line] if line else []), default=0.0) or 1.0
    scale = (WIDTH - LABELS - VALUES) / longest
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="13" role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">',
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#ffffff"/>',
        f'<text x="12" y="26" font-size="15" font-weight="bold" fill="#1f2328">{escape(title)}</text>',
    ]
    for number, row in enumerate(rows):
        parts += _bar(row, unit, TOP + number * (BAR + GAP), scale)
    if line is not None:
        x = LABELS + line * scale
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{height - 4}" stroke="#1f2328" '
            'stroke-dasharray="4 3"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(row: Bar, unit: str, top: float, scale: float) -> list[str]:
    width, middle = max(1.0, row.value * scale), top + BAR / 2 + 4.5
    return [
        f'<text x="{LABELS - 8}" y="{middle:.1f}" text-anchor="end" fill="#1f2328">{escape(row.label)}</text>',
        f'<rect x="{LABELS}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[row.colour]}"/>',
        f'<text x="{LABELS + width + 6:.1f}" y="{middle:.1f}" fill="#1f2328">{escape(amount(row.value, unit))}</text>',
    ]


def overview(rows: Sequence[Row]) -> str:
    """All figures that have a target, divided by it."""
    shares = [
        Bar(
            f"{row.what} ({row.unit})" if row.unit.startswith("×") else row.what,
            row.share,
            "hierarchy" if row.reached else "missed",
        )
        for row in rows
        if row.share is not None
    ]
    return bars("Measured, divided by the target (dashed)", "", [bar for bar in shares if bar.value > 0], 1.0)
