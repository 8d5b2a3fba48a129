"""Mermaid, as GitHub and many wikis draw it.

Source: mermaid.js.org, "Flowcharts": text in double quotes may hold anything but a quote, written as the entity
`#quot;`; `#` itself as `#35;`, and `<br/>` is a line break.
"""

from __future__ import annotations

from hierarchy.topology.drawing.parts import BROKEN, COLOURS, Entry, Part, parts

_CODES = {sign: f"#{ord(sign)};" for sign in '#"<>&;`\\[]{}()|'}
_CODES["\n"] = " "


def mermaid(tree: Entry) -> str:
    """A flowchart, from left to right. Names are in quoted labels only, with what has a meaning written as a code."""
    drawn = parts(tree)
    lines = ["flowchart LR"]
    lines += [f"  n{part.number}{_shape(part)}:::{_class(part)}" for part in drawn]
    lines += [f"  n{part.above} {_arrow(part)} n{part.number}" for part in drawn if part.above is not None]
    for state, (fill, line) in {**COLOURS, "broken": BROKEN}.items():
        if any(_class(part) == state for part in drawn):
            lines.append(f"  classDef {state} fill:{fill},stroke:{line},color:#212121")
    return "\n".join([*lines, ""])


def _shape(part: Part) -> str:
    label = "<br/>".join("".join(_CODES.get(sign, sign) for sign in line) for line in (part.name, *part.words))
    return f'["{label}"]' if part.is_node else f'(["{label}"])'


def _class(part: Part) -> str:
    return part.state if part.state in COLOURS else "broken"


def _arrow(part: Part) -> str:
    return "-->" if part.state in ("up", "declared") else "-.->"
