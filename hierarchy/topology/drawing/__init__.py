"""A tree as a picture for other programs: Graphviz's dot, Mermaid, SVG. Entries are as in `GET /tree`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hierarchy.topology.drawing.dot import dot
from hierarchy.topology.drawing.mermaid import mermaid
from hierarchy.topology.drawing.parts import Entry
from hierarchy.topology.drawing.svg import svg

#: name of a format -> how to write a tree in it
FORMATS: Mapping[str, Callable[[Entry], str]] = {"dot": dot, "mermaid": mermaid, "svg": svg}

__all__ = ["FORMATS", "Entry"]
