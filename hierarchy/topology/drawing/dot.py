"""Graphviz's dot.

Source: graphviz.org, "DOT Language": a quoted ID is any text in double quotes with `\\"` for a quote inside; in labels
a backslash begins an escape, and `\\n` is a line break.
"""

from __future__ import annotations

from hierarchy.topology.drawing.boxes import Box, boxes
from hierarchy.wire.tree_entry import TreeEntry


def dot(tree: TreeEntry) -> str:
    """A digraph, from left to right. Names are in labels only, so any text is harmless."""
    lines = [
        "digraph hierarchy {",
        "  rankdir=LR;",
        '  node [fontname="Helvetica", fontsize=11, style=filled];',
        "  edge [arrowsize=0.6];",
    ]
    drawn = boxes(tree)
    lines += [f"  n{box.number} [{_attributes(box)}];" for box in drawn]
    lines += [f"  n{box.above} -> n{box.number}{_edge_style(box)};" for box in drawn if box.above is not None]
    return "\n".join([*lines, "}", ""])


def _attributes(box: Box) -> str:
    fill, outline = box.colours
    label = r"\n".join(map(_quoted, box.lines))
    shape = "box" if box.is_node else "ellipse"
    return f'label="{label}", shape={shape}, fillcolor="{fill}", color="{outline}"'


def _edge_style(box: Box) -> str:
    return "" if box.is_connected else " [style=dashed]"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
