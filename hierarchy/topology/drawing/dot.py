"""Graphviz's dot.

Source: graphviz.org, "DOT Language": a quoted ID is any text in double quotes with `\\"` for a quote inside; in labels
a backslash begins an escape, and `\\n` is a line break.
"""

from __future__ import annotations

from hierarchy.topology.drawing.parts import Entry, Part, parts


def dot(tree: Entry) -> str:
    """A digraph, from left to right. Names are in labels only, so any text is harmless."""
    lines = [
        "digraph hierarchy {",
        "  rankdir=LR;",
        '  node [fontname="Helvetica", fontsize=11, style=filled];',
        "  edge [arrowsize=0.6];",
    ]
    drawn = parts(tree)
    lines += [f"  n{part.number} [{_look(part)}];" for part in drawn]
    lines += [f"  n{part.above} -> n{part.number}{_edge(part)};" for part in drawn if part.above is not None]
    return "\n".join([*lines, "}", ""])


def _look(part: Part) -> str:
    fill, line = part.colours
    label = r"\n".join(map(_quoted, (part.name, *part.words)))
    shape = "box" if part.is_node else "ellipse"
    return f'label="{label}", shape={shape}, fillcolor="{fill}", color="{line}"'


def _edge(part: Part) -> str:
    return "" if part.state in ("up", "declared") else " [style=dashed]"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
