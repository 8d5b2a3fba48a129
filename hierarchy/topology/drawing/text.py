"""A tree as text for a terminal: one row for each node and engine, with its state, numbers and models."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from hierarchy.labels import known, write
from hierarchy.runtime.logs import escape
from hierarchy.topology.drawing.boxes import UNKNOWN, drawn_children, format_number, slots_of
from hierarchy.wire.tree_entry import ModelEntry, TreeEntry

#: state -> (mark, colour)
STATES = {
    "up": ("●", "green"),
    "starting": ("◐", "yellow"),
    "draining": ("◒", "yellow"),
    "suspect": ("◍", "yellow"),
    "asleep": ("☾", "yellow"),
    "silent": ("◌", "red"),
    UNKNOWN: ("?", "red"),
    "down": ("✗", "red"),
    "ejected": ("⊘", "red"),
    "gone": ("✗", "red"),
    "declared": ("○", "cyan"),
}
UNKNOWN_STATE = ("?", "magenta")
HEADINGS = ("", "state", "speed", "queue", "in flight", "models")
NUMBER_COLUMNS = range(2, 5)  # aligned right
SHOWN_LINKS = ("reverse", "auto")  # after a node's name; a direct link is the usual one
LEGEND = "speed: capacity weight · queue: running + waiting / slots · in flight: sent by the node above"
LEGEND_LINK = " · reverse: it dials the node above"
LEGEND_HITS = " · cache: of prompts, by the engine's count (as its node expects)"
UNKNOWN_NUMBER = "-"
LEGEND_TRIP = " · ms: the round trip to it"
SHOWN_TRIP_S = 0.01  # shorter ones make hardly any difference
GAP = "  "
MIN_NAME_WIDTH = 10
MIN_MODELS_WIDTH = 20
MIN_WIDTH_WITH_URL = 110  # columns of the terminal


@dataclass(frozen=True)
class Row:
    """One node or engine as text that is harmless to a terminal."""

    lead: str  #: tree lines before its name
    below: str  #: tree lines before further lines of its row
    name: str
    kind: str
    link: str  #: one of `SHOWN_LINKS`, or empty
    labels: str  #: of it, `region=eu`, or empty
    trip: str  #: the round trip to it, if it is long enough to be shown
    state: str
    numbers: tuple[str, ...]  #: speed, queue length with slots, in flight; of a declared one only the speed
    hits: str  #: part of an engine's prompts that came from its cache, and what was expected
    models: str
    detail: str
    url: str

    @property
    def label(self) -> Text:
        """Its place and name; of an engine also the kind, of a node the link; how far away it is."""
        label = Text(self.lead, "dim").append(self.name, "not dim" if self.kind != "node" else "not dim bold")
        note = " ".join(filter(None, (self.link if self.kind == "node" else self.kind, self.labels, self.trip)))
        return label.append(f" {note}", "cyan") if note else label

    @property
    def mark(self) -> Text:
        """Its state, in colour."""
        mark, colour = STATES.get(self.state, UNKNOWN_STATE)
        return Text(f"{mark} {self.state}", colour)


def draw(tree: TreeEntry, width: int) -> Text:
    """The whole picture for a terminal of `width` columns: headings, rows, summary and legend."""
    drawn = list(rows(tree))
    live = any(row.state != "declared" for row in drawn)
    with_url = width >= MIN_WIDTH_WITH_URL
    with_hits = any(row.hits for row in drawn)
    further = [*(["cache"] if with_hits else []), *(["url"] if with_url else [])]
    headings = [*(HEADINGS[:-1] if live else HEADINGS[:3]), *further]
    cells = [_cells(row, with_hits=with_hits, with_url=with_url) for row in drawn]
    widths, room = _widths(headings, cells, width)
    lines = [_line([Text(heading, "dim") for heading in (*headings, HEADINGS[-1])], widths)]
    for row, line in zip(drawn, cells, strict=True):
        lines += _row_lines(row, line, widths, room, width)
    legend = LEGEND + (LEGEND_LINK if any(row.link == "reverse" for row in drawn) else "")
    legend += LEGEND_TRIP if any(row.trip for row in drawn) else ""
    legend += LEGEND_HITS if with_hits else ""
    return Text("\n").join([*lines, Text(), _summary(drawn), *([Text(legend, "dim")] if live else [])])


def rows(entry: TreeEntry, lead: str = "", below: str = "", depth: int = 0) -> Iterator[Row]:
    """The tree from top to bottom, at most `MAX_DEPTH` levels of children. An unknown number is `-`."""
    children = drawn_children(entry, depth)
    counts = () if entry.state == "declared" else (_queue(entry), format_number(entry.in_flight))
    yield Row(
        lead=lead,
        below=below + ("│  " if children else "   "),
        name=escape(entry.name),
        kind=escape(entry.kind),
        link=entry.link if entry.link in SHOWN_LINKS else "",
        labels=escape(write(known(entry.labels))),
        trip=trip(entry.round_trip_s),
        state=escape(entry.state),
        numbers=(format_number(entry.speed), *counts),
        hits=", ".join(_hits(entry.models)),
        models=", ".join(map(escape, model_names(entry.models))),
        detail=escape("; ".join(filter(None, [entry.detail, *map(_health, entry.models)]))),
        url=escape(entry.url),
    )
    for number, child in enumerate(children, 1):
        last = number == len(children)
        yield from rows(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), depth + 1)


def trip(seconds: float | None) -> str:
    """A round trip that is long enough to matter; empty for any other."""
    return f"{seconds * 1000:.3g} ms" if seconds is not None and seconds >= SHOWN_TRIP_S else ""


def _queue(entry: TreeEntry) -> str:
    """Such as `6/8` where its slots are known."""
    slots = slots_of(entry)
    return format_number(entry.queue_length) + (f"/{format_number(slots)}" if slots else "")


def _hits(models: tuple[ModelEntry, ...]) -> list[str]:
    """Such as `82% (85%)`, for each model of which something is known; one that has two API families counts once."""
    own: dict[str, float | None] = {}
    expected: dict[str, float] = {}
    for model in models:
        if model.engine_hit_rate is not None:
            own[model.name] = model.engine_hit_rate
        if model.hit_rate is not None:
            own.setdefault(model.name, None)
            expected.setdefault(model.name, model.hit_rate)
    return [
        (UNKNOWN_NUMBER if rate is None else f"{rate:.0%}") + (f" ({expected[name]:.0%})" if name in expected else "")
        for name, rate in own.items()
    ]


def _health(model: ModelEntry) -> str:
    """What is wrong with one model at a child; empty if nothing is."""
    rate = f"{model.error_rate:.0%} of {model.responses} responses failed" if model.error_rate else ""
    ejected = f"ejected: {model.detail}" if model.detail else ""
    text = ", ".join(filter(None, (ejected, rate)))
    return f"{model.name}{_families({model.api})} {text}" if text else ""


def model_names(models: tuple[ModelEntry, ...]) -> list[str]:
    """Each model once, with its API families unless OpenAI's is the only one, and how long it takes to be loaded."""
    families: dict[str, set[str]] = {}
    loads: dict[str, float] = {}
    for model in models:
        families.setdefault(model.name, set()).add(model.api)
        loads[model.name] = model.load_s
    return [name + _families(apis) + _cold(loads[name]) for name, apis in families.items()]


def _cold(load_s: float) -> str:
    return f" [not loaded: {load_s:.3g} s]" if load_s else ""


def _families(apis: set[str]) -> str:
    return "" if apis == {"openai"} else f" ({', '.join(sorted(apis, key=lambda api: (api != 'openai', api)))})"


def _cells(row: Row, *, with_hits: bool, with_url: bool) -> list[Text]:
    """All columns but the last."""
    numbers = [Text(number, "dim" if number in ("0", "-") or number.startswith("0/") else "") for number in row.numbers]
    further = [*([Text(row.hits)] if with_hits else []), *([Text(row.url, "dim")] if with_url else [])]
    return [row.label, row.mark, *numbers, *further]


def _widths(headings: list[str], cells: list[list[Text]], width: int) -> tuple[list[int], int]:
    """The widths of all columns but the last, and that of the last one. Long names in a deep tree are cut."""
    widths = [
        max([cell_len(heading), *(line[column].cell_len for line in cells if column < len(line))])
        for column, heading in enumerate(headings)
    ]
    room = width - sum(widths) - len(GAP) * len(widths)
    if room < MIN_MODELS_WIDTH:
        widths[0] = max(MIN_NAME_WIDTH, widths[0] + room - MIN_MODELS_WIDTH)
        room = MIN_MODELS_WIDTH
    return widths, room


def _row_lines(row: Row, cells: list[Text], widths: list[int], room: int, width: int) -> Iterator[Text]:
    """The row, further lines for its models, and below it the reason for its state, from the second column on."""
    below, empty = Text(row.below, "dim"), [Text()] * (len(widths) - 1)
    models = [Text(line, "dim" if row.kind == "node" else "") for line in _wrap(row.models, room)]
    yield _line([*cells, *empty[len(cells) - 1 :], *(models[:1] or [Text("-", "dim")])], widths)
    for line in models[1:]:
        yield _line([below, *empty, line], widths)
    colour = STATES.get(row.state, UNKNOWN_STATE)[1]
    for detail in _wrap(row.detail, max(MIN_MODELS_WIDTH, width - widths[0] - len(GAP))):
        yield _line([below, Text(detail, colour)], widths[:1])


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns; model names and URLs break after a hyphen or a slash, but not in "://"."""
    wrapper = textwrap.TextWrapper(width)
    wrapper.wordsep_re = re.compile(r"(\s+)|(?<=-)|(?<=[^:/]/)")
    return wrapper.wrap(text)


def _line(cells: list[Text], widths: list[int]) -> Text:
    """One line. The last cell has no width of its own."""
    padded = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=False)):
        cell.truncate(width, overflow="ellipsis")
        padding = Text(" " * (width - cell.cell_len))
        padded.append(padding + cell if column in NUMBER_COLUMNS else cell + padding)
    line = Text(GAP).join([*padded, *cells[len(widths) :]])
    line.rstrip()
    return line


def _summary(drawn: list[Row]) -> Text:
    nodes = sum(row.kind == "node" for row in drawn)
    engines = len(drawn) - nodes
    text = Text(f"{nodes} node{'s'[: nodes != 1]} · {engines} engine{'s'[: engines != 1]}")
    if not_up := sum(row.state not in ("up", "declared") for row in drawn):
        return text.append(" · ").append(f"{not_up} not up", "red")
    return text.append(" · ").append("all up", "green") if any(row.state == "up" for row in drawn) else text
