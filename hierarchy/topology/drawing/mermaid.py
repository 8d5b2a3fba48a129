"""Mermaid, as GitHub and many wikis draw it.

Source: mermaid.js.org, "Flowcharts": text in double quotes may contain anything but a quote, written as the entity
`#quot;`; `#` itself as `#35;`, and `<br/>` is a line break.
"""

from __future__ import annotations

from hierarchy.topology.drawing.boxes import BROKEN, COLOURS, Box, boxes
from hierarchy.wire.tree_entry import TreeEntry

_ENTITIES = {char: f"#{ord(char)};" for char in '#"<>&;`\\[]{}()|'}
_ENTITIES["\n"] = " "


def mermaid(tree: TreeEntry) -> str:
    """A flowchart, from left to right. Names are in quoted labels only, with each special character as an entity."""
    drawn = boxes(tree)
    lines = ["flowchart LR"]
    lines += [f"  n{box.number}{_shape(box)}:::{_class(box)}" for box in drawn]
    lines += [f"  n{box.above} {_arrow(box)} n{box.number}" for box in drawn if box.above is not None]
    for state, (fill, outline) in {**COLOURS, "broken": BROKEN}.items():
        if any(_class(box) == state for box in drawn):
            lines.append(f"  classDef {state} fill:{fill},stroke:{outline},color:#212121")
    return "\n".join([*lines, ""])


def _shape(box: Box) -> str:
    label = "<br/>".join("".join(_ENTITIES.get(char, char) for char in line) for line in box.lines)
    return f'["{label}"]' if box.is_node else f'(["{label}"])'


def _class(box: Box) -> str:
    return box.state if box.state in COLOURS else "broken"


def _arrow(box: Box) -> str:
    return "-->" if box.is_connected else "-.->"
