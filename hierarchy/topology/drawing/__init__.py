"""Pictures of a tree, as text for a terminal (`text`) and for other programs: Graphviz's dot, Mermaid, SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hierarchy.topology.drawing.dot import dot
from hierarchy.topology.drawing.mermaid import mermaid
from hierarchy.topology.drawing.svg import svg
from hierarchy.wire.tree_entry import TreeEntry

#: name of a format for other programs -> function that writes a tree in it
FORMATS: Mapping[str, Callable[[TreeEntry], str]] = {"dot": dot, "mermaid": mermaid, "svg": svg}

__all__ = ["FORMATS"]
