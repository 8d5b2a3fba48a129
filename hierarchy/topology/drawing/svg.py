"""SVG with its own layout: one column for each depth, one row for each leaf, each node centred on its children."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from hierarchy.topology.drawing.boxes import Box, boxes
from hierarchy.wire.tree_entry import TreeEntry

CHAR_WIDTH, LINE_HEIGHT = 7.2, 16  # of 12px text, a little generous for any sans-serif font
PADDING, GAP_X, GAP_Y = 10, 48, 14
MAX_CHARS = 40  # of one line; longer lines are cut, and whole in the tooltip

Columns = Sequence[tuple[float, float]]  #: (left edge, width) of each depth
Middles = dict[int, float]  #: y of each box's middle, by its number


def svg(tree: TreeEntry) -> str:
    """A self-contained picture. Its size follows from the text, estimated by the number of characters."""
    drawn = boxes(tree)
    columns, middles = _columns(drawn), _middles(drawn)
    width = columns[-1][0] + columns[-1][1] + PADDING
    height = max(middles[box.number] + _height(box) / 2 for box in drawn) + PADDING
    body = [_edge(drawn[box.above], box, columns, middles) for box in drawn if box.above is not None]
    body += [_box(box, columns, middles) for box in drawn]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *body, "</svg>", ""])


def _columns(drawn: Sequence[Box]) -> Columns:
    found: list[tuple[float, float]] = []
    left = float(PADDING)
    for depth in range(max(box.depth for box in drawn) + 1):
        lines = [line for box in drawn if box.depth == depth for line in box.lines]
        width = max(min(len(line), MAX_CHARS) for line in lines) * CHAR_WIDTH + 2 * PADDING
        found.append((left, width))
        left += width + GAP_X
    return found


def _middles(drawn: Sequence[Box]) -> Middles:
    """All rows are as high as the highest box, so that no two boxes of one column overlap."""
    pitch = max(map(_height, drawn)) + GAP_Y
    children: dict[int, list[int]] = {}
    for box in drawn:
        if box.above is not None:
            children.setdefault(box.above, []).append(box.number)
    leaves = [box.number for box in drawn if box.number not in children]
    middles = {number: PADDING + pitch * (row + 0.5) for row, number in enumerate(leaves)}
    for number in sorted(children, reverse=True):  # from the bottom up: children have higher numbers than their parent
        middles[number] = (middles[children[number][0]] + middles[children[number][-1]]) / 2
    return middles


def _height(box: Box) -> float:
    return len(box.lines) * LINE_HEIGHT + PADDING


def _box(box: Box, columns: Columns, middles: Middles) -> str:
    fill, outline = box.colours
    left, width = columns[box.depth]
    height = _height(box)
    top = middles[box.number] - height / 2
    radius = 4 if box.is_node else min(height / 2.5, 16)
    parts = [
        f"<g><title>{escape(chr(10).join(box.lines))}</title>",
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:.1f}" '
        f"fill={quoteattr(fill)} stroke={quoteattr(outline)}/>",
    ]
    for number, text in enumerate(box.lines):
        style = ' font-weight="bold"' if number == 0 else ' fill="#555555"'
        shown = text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 1]}…"
        y = top + PADDING / 2 + (number + 0.75) * LINE_HEIGHT
        parts.append(f'<text x="{left + PADDING:.1f}" y="{y:.1f}"{style}>{escape(shown)}</text>')
    return "".join([*parts, "</g>"])


def _edge(above: Box, box: Box, columns: Columns, middles: Middles) -> str:
    x1, x2 = sum(columns[above.depth]), columns[box.depth][0]
    y1, y2 = middles[above.number], middles[box.number]
    bend = (x1 + x2) / 2
    dashes = "" if box.is_connected else ' stroke-dasharray="4 3"'
    path = f"M{x1:.1f} {y1:.1f} C{bend:.1f} {y1:.1f} {bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return f'<path d="{path}" fill="none" stroke="#888888"{dashes}/>'
