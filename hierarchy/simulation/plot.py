"""Results as a picture: SVG, TTFT and hit rate over time, one colour for each policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from hierarchy.simulation.measures import Moment, Result

WIDTH, HEIGHT, LEFT, TOP, GAP = 860, 220, 64, 56, 56  # of one panel, and around it
COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
LEGEND: Final = 200  # width of one policy in the legend


class _Panel(NamedTuple):
    """Values over time."""

    title: str
    of: Callable[[Moment], float]
    low: float
    high: float
    is_log: bool

    def y(self, value: float) -> float:
        """From 0 at the top to 1 at the bottom."""
        if self.is_log:
            value, low, high = math.log10(max(value, self.low)), math.log10(self.low), math.log10(self.high)
        else:
            low, high = self.low, self.high
        return 1 - min(max((value - low) / (high - low), 0.0), 1.0)

    @property
    def marks(self) -> list[float]:
        """Values with a line."""
        if not self.is_log:
            return [self.low + (self.high - self.low) * part / 4 for part in range(5)]
        return [10.0**power for power in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)]


def svg(results: Sequence[Result], marks: Sequence[tuple[str, float]] = ()) -> str:
    """A self-contained picture. marks: what happened, and when."""
    end_s = max((result.simulated_s for result in results), default=0.0) or 1.0
    panels = _panels(results)
    width, height = LEFT + WIDTH + 20, TOP + len(panels) * (HEIGHT + GAP)
    body = [_legend(number, result.policy) for number, result in enumerate(results)]
    for row, panel in enumerate(panels):
        top = TOP + row * (HEIGHT + GAP)
        body += _frame(panel, top, end_s)
        body += [_mark(name, at_s, top, end_s) for name, at_s in marks if at_s <= end_s]
        body += [_line(panel, result, COLOURS[n % len(COLOURS)], top, end_s) for n, result in enumerate(results)]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *body, "</svg>", ""])


def _panels(results: Sequence[Result]) -> list[_Panel]:
    moments = [moment for result in results for moment in result.moments]
    times = [time for moment in moments for time in (moment.ttft.p50, moment.ttft.p99) if time > 0]
    low = 10.0 ** math.floor(math.log10(min(times, default=0.01)))
    high = max(10.0 ** math.ceil(math.log10(max(times, default=1.0))), 10 * low)
    return [
        _Panel("TTFT, 99th percentile, in seconds", lambda moment: moment.ttft.p99, low, high, is_log=True),
        _Panel("TTFT, median, in seconds", lambda moment: moment.ttft.p50, low, high, is_log=True),
        _Panel(
            "hit rate: part of all prompt tokens that were cached", lambda moment: moment.hit_rate, 0, 1, is_log=False
        ),
    ]


def _x(at_s: float, end_s: float) -> float:
    return LEFT + WIDTH * at_s / end_s


def _frame(panel: _Panel, top: float, end_s: float) -> list[str]:
    lines = [f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{escape(panel.title)}</text>']
    for mark in panel.marks:
        y = top + HEIGHT * panel.y(mark)
        lines.append(f'<path d="M{LEFT} {y:.1f} H{LEFT + WIDTH}" stroke="#dddddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">{mark:g}</text>')
    for part in range(5):
        at_s = end_s * part / 4
        anchor = "end" if part == 4 else "middle"
        lines.append(
            f'<text x="{_x(at_s, end_s):.1f}" y="{top + HEIGHT + 16}" text-anchor="{anchor}" fill="#555555">'
            f"{at_s:.0f} s</text>"
        )
    return lines


def _line(panel: _Panel, result: Result, colour: str, top: float, end_s: float) -> str:
    points = " ".join(
        f"{_x(moment.at_s, end_s):.1f},{top + HEIGHT * panel.y(panel.of(moment)):.1f}" for moment in result.moments
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _mark(name: str, at_s: float, top: float, end_s: float) -> str:
    x = _x(at_s, end_s)
    return (
        f'<path d="M{x:.1f} {top} V{top + HEIGHT}" stroke="#888888" stroke-dasharray="4 3"/>'
        f'<text x="{x + 4:.1f}" y="{top + 12}" fill="#888888">{escape(name)}</text>'
    )


def _legend(number: int, policy: str) -> str:
    x, colour = LEFT + number * LEGEND, COLOURS[number % len(COLOURS)]
    return (
        f'<path d="M{x} 18 h24" stroke="{colour}" stroke-width="3"/><text x="{x + 32}" y="22">{escape(policy)}</text>'
    )
