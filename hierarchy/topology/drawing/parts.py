"""What all formats draw: each node and engine with its words, from top to bottom."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hierarchy.runtime import logs

Entry = Mapping[str, Any]
MAX_DEPTH = 64
MANY_MODELS = 3  # more are counted, not named

_UNFIT = re.compile("[\ud800-\udfff\ufffe\uffff]")

#: (fill, line) of a box, by what its state means
COLOURS = {
    "up": ("#e8f5e9", "#2e7d32"),
    "declared": ("#e3f2fd", "#1565c0"),
    "starting": ("#fff8e1", "#f9a825"),
    "draining": ("#fff8e1", "#f9a825"),
}
BROKEN = ("#ffebee", "#c62828")


@dataclass(frozen=True)
class Part:
    """One node or engine. number: its place from the top; above: its parent's; depth: 0 at the top."""

    number: int
    above: int | None
    depth: int
    name: str
    kind: str
    state: str
    words: tuple[str, ...]  #: lines below the name

    @property
    def colours(self) -> tuple[str, str]:
        """(fill, line)"""
        return COLOURS.get(self.state, BROKEN)

    @property
    def is_node(self) -> bool:
        return self.kind == "node"


def parts(tree: Entry) -> list[Part]:
    """All of a tree, each before what stands below it. Whatever is malformed is drawn as `?` or left out."""
    found: list[Part] = []
    _collect(tree, "?", None, 0, found)
    return found


def _collect(entry: Entry, key: str, above: int | None, depth: int, found: list[Part]) -> None:
    name, kind, state = (escape(str(entry.get(field) or "")) for field in ("name", "kind", "state"))
    part = Part(len(found), above, depth, name or key, kind or "node", state or "?", tuple(_words(entry, state)))
    found.append(part)
    children = entry.get("children")
    if isinstance(children, Mapping) and depth < MAX_DEPTH:
        for child_key, child in children.items():
            if isinstance(child, Mapping):
                _collect(child, escape(str(child_key)), part.number, depth + 1, found)


def escape(text: str) -> str:
    """Without what a terminal would obey, and without what XML and UTF-8 cannot carry."""
    return _UNFIT.sub("?", logs.escape(text))


def _words(entry: Entry, state: str) -> Iterator[str]:
    kind = str(entry.get("kind") or "node")
    if kind != "node":
        yield escape(kind)
    live = state not in ("declared", "")
    numbers = [f"speed {_number(entry.get('speed'))}"]
    numbers += [f"queue {_number(entry.get('queue_length'))}"] if live else []
    yield " · ".join(numbers)
    rows = entry.get("models")
    names = [str(row.get("name")) for row in (rows if isinstance(rows, list) else ()) if isinstance(row, Mapping)]
    names = list(dict.fromkeys(names))
    if names and kind != "node":
        more = len(names) - MANY_MODELS
        yield escape(", ".join(names[:MANY_MODELS]) + (f" and {more} more" if more > 0 else ""))
    if state not in ("up", "declared"):
        yield escape(": ".join(filter(None, [state or "?", str(entry.get("detail") or "")])))


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"
