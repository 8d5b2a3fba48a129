"""SVG, laid out here: depth from left to right, each leaf in a row of its own, each node amid its children."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from hierarchy.topology.drawing.parts import Entry, Part, parts

SIGN, LINE = 7.2, 16  # width of a sign and height of a line of 12px text, a little generous for any sans-serif font
PAD, GAP_X, GAP_Y = 10, 48, 14
MAX_SIGNS = 40  # of one line; longer ones are cut, and whole in the tooltip


def svg(tree: Entry) -> str:
    """A picture that needs nothing beside it. Its size follows from the text, estimated by the number of signs."""
    drawn = parts(tree)
    columns = _columns(drawn)
    rows = _rows(drawn)
    width = columns[-1][0] + columns[-1][1] + PAD
    height = max(rows[part.number] + _height(part) / 2 for part in drawn) + PAD
    body = [_edge(part, drawn, columns, rows) for part in drawn if part.above is not None]
    body += [_box(part, columns, rows) for part in drawn]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *body, "</svg>", ""])


def _columns(drawn: Sequence[Part]) -> list[tuple[float, float]]:
    """(left edge, width) of each depth."""
    found: list[tuple[float, float]] = []
    left = float(PAD)
    for depth in range(max(part.depth for part in drawn) + 1):
        lines = [line for part in drawn if part.depth == depth for line in (part.name, *part.words)]
        width = max(min(len(line), MAX_SIGNS) for line in lines) * SIGN + 2 * PAD
        found.append((left, width))
        left += width + GAP_X
    return found


def _rows(drawn: Sequence[Part]) -> dict[int, float]:
    """The middle of each box. All rows are as high as the highest box, so that no two boxes of one column overlap."""
    pitch = max(map(_height, drawn)) + GAP_Y
    children: dict[int, list[int]] = {}
    for part in drawn:
        if part.above is not None:
            children.setdefault(part.above, []).append(part.number)
    leaves = [part.number for part in drawn if part.number not in children]
    middles = {number: PAD + pitch * (row + 0.5) for row, number in enumerate(leaves)}
    for number in sorted(children, reverse=True):  # children have higher numbers than what they stand below
        middles[number] = (middles[children[number][0]] + middles[children[number][-1]]) / 2
    return middles


def _height(part: Part) -> float:
    return (1 + len(part.words)) * LINE + PAD


def _box(part: Part, columns: Sequence[tuple[float, float]], rows: dict[int, float]) -> str:
    fill, line = part.colours
    left, width = columns[part.depth]
    top, height = rows[part.number] - _height(part) / 2, _height(part)
    radius = 4 if part.is_node else height / 2.5
    lines = [
        f"<g><title>{escape(chr(10).join((part.name, *part.words)))}</title>",
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{min(radius, 16):.1f}" '
        f"fill={quoteattr(fill)} stroke={quoteattr(line)}/>",
    ]
    for number, text in enumerate((part.name, *part.words)):
        weight = ' font-weight="bold"' if number == 0 else ' fill="#555555"'
        shown = text if len(text) <= MAX_SIGNS else f"{text[: MAX_SIGNS - 1]}…"
        y = top + PAD / 2 + (number + 0.75) * LINE
        lines.append(f'<text x="{left + PAD:.1f}" y="{y:.1f}"{weight}>{escape(shown)}</text>')
    return "".join([*lines, "</g>"])


def _edge(part: Part, drawn: Sequence[Part], columns: Sequence[tuple[float, float]], rows: dict[int, float]) -> str:
    assert part.above is not None
    above = drawn[part.above]
    x1 = columns[above.depth][0] + columns[above.depth][1]
    y1, x2, y2 = rows[above.number], columns[part.depth][0], rows[part.number]
    bend = (x1 + x2) / 2
    dashes = "" if part.state in ("up", "declared") else ' stroke-dasharray="4 3"'
    path = f"M{x1:.1f} {y1:.1f} C{bend:.1f} {y1:.1f} {bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return f'<path d="{path}" fill="none" stroke="#888888"{dashes}/>'
