"""Results as a picture: SVG, TTFT and hit rate over time, one colour for each policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from hierarchy.simulation.measures import Moment, Result

WIDTH, HEIGHT, LEFT, TOP, GAP = 820, 200, 64, 64, 64  # of one panel, and around it
RIGHT: Final = 28  # beside the panels
COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
LETTER: Final = 7  # width of a letter in the legend, about
TICKS: Final = 8  # marks on the axis of time, at most
NEAR_END: Final = 0.8  # of the time: what happens later has its name on the left


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
    def marks(self) -> list[tuple[float, str]]:
        """Values with a line, and how they are written."""
        if not self.is_log:
            return [(part / 4, f"{part * 25} %") for part in range(5)]
        powers = range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)
        return [(10.0**power, _seconds(10.0**power)) for power in powers]


def svg(results: Sequence[Result], marks: Sequence[tuple[str, float]] = ()) -> str:
    """A self-contained picture. marks: what happened, and when."""
    end_s = max((result.simulated_s for result in results), default=0.0) or 1.0
    counted_s = max((result.counted_from_s for result in results), default=0.0)
    panels = _panels(results)
    width, height = LEFT + WIDTH + RIGHT, TOP + len(panels) * (HEIGHT + GAP) - GAP // 2
    body = _legend([result.policy for result in results])
    for row, panel in enumerate(panels):
        top = TOP + row * (HEIGHT + GAP)
        body += _warm_up(counted_s, top, end_s)
        body += _frame(panel, top, end_s)
        body += [_line(panel, result, COLOURS[n % len(COLOURS)], top, end_s) for n, result in enumerate(results)]
        body += [_mark(name, at_s, top, end_s) for name, at_s in marks if at_s <= end_s]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *body, "</svg>", ""])


def _panels(results: Sequence[Result]) -> list[_Panel]:
    moments = [moment for result in results for moment in result.moments]
    return [
        _of_times("time to first token, 99th percentile", moments, lambda moment: moment.ttft.p99),
        _of_times("time to first token, median", moments, lambda moment: moment.ttft.p50),
        _Panel("prompt tokens from the cache", lambda moment: moment.hit_rate, 0, 1, is_log=False),
    ]


def _of_times(title: str, moments: Sequence[Moment], of: Callable[[Moment], float]) -> _Panel:
    """A panel with the powers of ten around its values."""
    times = [time for time in map(of, moments) if time > 0]
    low = 10.0 ** math.floor(math.log10(min(times, default=0.01)))
    high = max(10.0 ** math.ceil(math.log10(max(times, default=1.0))), 10 * low)
    return _Panel(title, of, low, high, is_log=True)


def _seconds(value: float) -> str:
    return f"{value:g} s" if value >= 1 else f"{value * 1000:g} ms"


def _x(at_s: float, end_s: float) -> float:
    return LEFT + WIDTH * at_s / end_s


def _frame(panel: _Panel, top: float, end_s: float) -> list[str]:
    lines = [f'<text x="{LEFT}" y="{top - 10}" font-weight="bold">{escape(panel.title)}</text>']
    for value, text in panel.marks:
        y = top + HEIGHT * panel.y(value)
        lines.append(f'<path d="M{LEFT} {y:.1f} H{LEFT + WIDTH}" stroke="#dddddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">{text}</text>')
    step_s = tick_s(end_s)
    for number in range(int(end_s / step_s) + 1):
        x, below = _x(number * step_s, end_s), top + HEIGHT + 18
        lines.append(f'<path d="M{x:.1f} {top + HEIGHT} v4" stroke="#999999"/>')
        lines.append(f'<text x="{x:.1f}" y="{below}" text-anchor="middle" fill="#555555">{number * step_s:g} s</text>')
    return lines


def tick_s(end_s: float) -> float:
    """The round time between two marks of an axis."""
    power = 10.0 ** math.floor(math.log10(end_s / TICKS))
    return next(step * power for step in (1, 2, 5, 10) if step * power * TICKS >= end_s * (1 - 1e-9))


def _warm_up(counted_s: float, top: float, end_s: float) -> list[str]:
    """The time that is not counted is grey."""
    width = WIDTH * counted_s / end_s
    if width < 1:
        return []
    found = [f'<rect x="{LEFT}" y="{top}" width="{width:.1f}" height="{HEIGHT}" fill="#f3f3f3"/>']
    if width > len("not counted") * LETTER:
        found.append(f'<text x="{LEFT + 6}" y="{top + HEIGHT - 8}" fill="#999999">not counted</text>')
    return found


def _line(panel: _Panel, result: Result, colour: str, top: float, end_s: float) -> str:
    """Each value in the middle of its part of the time."""
    moments = result.moments
    half_s = (moments[1].at_s - moments[0].at_s) / 2 if len(moments) > 1 else 0.0
    points = " ".join(
        f"{_x(min(moment.at_s + half_s, end_s), end_s):.1f},{top + HEIGHT * panel.y(panel.of(moment)):.1f}"
        for moment in moments
    )
    return (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round" '
        'stroke-opacity="0.85"/>'
    )


def _mark(name: str, at_s: float, top: float, end_s: float) -> str:
    x = _x(at_s, end_s)
    beside, anchor = (x - 5, "end") if at_s > NEAR_END * end_s else (x + 5, "start")
    return (
        f'<path d="M{x:.1f} {top} V{top + HEIGHT}" stroke="#666666" stroke-dasharray="4 3"/>'
        f'<text x="{beside:.1f}" y="{top + 14}" text-anchor="{anchor}" fill="#555555" stroke="#ffffff" '
        f'stroke-width="3" paint-order="stroke">{escape(name)}</text>'
    )


def _legend(policies: Sequence[str]) -> list[str]:
    found, x = [], LEFT
    for number, policy in enumerate(policies):
        colour = COLOURS[number % len(COLOURS)]
        found.append(
            f'<path d="M{x} 20 h24" stroke="{colour}" stroke-width="3"/>'
            f'<text x="{x + 32}" y="24">{escape(policy)}</text>'
        )
        x += 32 + LETTER * len(policy) + 28
    return found
