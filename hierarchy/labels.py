"""Labels of engines and nodes, such as `region=eu`, and what a request requires of them. Pure.

A set of labels is a mapping of names to values. A value may be several, `eu/us`: one of them holds, but it is not known
which. What a set does not name is open: it takes what the node above says of the whole subtree. The value `DENIED` is
none; the name `REST` stands for all names that are not in the set. So of two sets `meet` leaves for each name the
values that both allow:

    open  >  several values  >  one value  >  denied

What a child says of itself can therefore only take away from what its parent says of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

LabelSet = Mapping[str, str]

MAX_LABELS: Final = 8  # of one child, and in one requirement
MAX_LENGTH: Final = 63  # characters of a name or value
MAX_VALUES: Final = 8  # of which one holds
MAX_SETS: Final = 8  # of what different engines offer for one model
DENIED: Final = ""
REST: Final = "*"
OTHER: Final = "?"  # among several values: any further one, or none
OPEN: Final[dict[str, str]] = {}  # says nothing
CLOSED: Final[dict[str, str]] = {REST: DENIED}  # nothing can be required of it
GRAMMAR: Final = f"use 1 to {MAX_LENGTH} letters, digits, '.', '_' and '-', a letter or digit first and last"
_WORD: Final[Any] = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?").fullmatch
_WHOLE: Final = "!"  # behind a label in the field for a child: all of its subtree has it


class Requirement:
    """The labels that whatever serves a request must have.

    vouched: names of labels that all of this node's subtree has, as its parent says, and as far as this node does not
    know better. Of the others a child must be known to have them.
    """

    def __init__(self, labels: LabelSet, vouched: Iterable[str] = ()) -> None:
        self.pairs = tuple(sorted(labels.items()))
        self.vouched = frozenset(vouched)
        self.text = ",".join([f"{name}={value}" for name, value in self.pairs])
        self._hash = hash((self.pairs, self.vouched))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Requirement) and self.pairs == other.pairs and self.vouched == other.vouched

    def __hash__(self) -> int:
        return self._hash

    def met_by(self, bound: LabelSet, said: LabelSet = OPEN) -> bool:
        """Does a child have the labels? bound: what this node knows of it. said: what the child says of itself."""
        for name, value in self.pairs:
            known = value_of(bound, name)
            if known is None:
                if name not in self.vouched:
                    return False
                known = value
            if _common(known, value_of(said, name)) != value:
                return False
        return True

    def below(self, bound: LabelSet) -> Requirement:
        """The same for the children of a child. bound: what this node knows of it."""
        vouched = []
        for name, value in self.pairs:
            known = value_of(bound, name)
            if known == value or (known is None and name in self.vouched):
                vouched.append(name)
        return Requirement(dict(self.pairs), vouched)

    def narrowed(self, other: Requirement | None) -> Requirement:
        """Both together. Raises `ValueError`, with the name, if they require two values of one label."""
        if other is None:
            return self
        labels = dict(self.pairs)
        for name, value in other.pairs:
            if labels.setdefault(name, value) != value:
                raise ValueError(name)
        return Requirement(labels, self.vouched)

    @property
    def field(self) -> bytes:
        """For a child; see `of_parent`."""
        return ",".join(
            [f"{name}={value}{_WHOLE if name in self.vouched else ''}" for name, value in self.pairs]
        ).encode()

    def __repr__(self) -> str:
        return f"<Requirement {self.field.decode()}>"


# -- texts -------------------------------------------------------------------------------------------------------


def check(labels: object, *, several: bool = False) -> dict[str, str]:
    """The labels, if they are some. several: each may have more than one value, as `eu/us`.

    Raises:
        ValueError: with two arguments, what is wrong and a hint.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError("contains no labels", "write {region: eu}, or leave it out")
    if len(labels) > MAX_LABELS:
        raise ValueError(f"contains {len(labels)} labels", f"write at most {MAX_LABELS}")
    found: dict[str, str] = {}
    for name, value in labels.items():
        if not isinstance(name, str) or not _WORD(name):
            raise ValueError(f"{name!r:.80} is not the name of a label", GRAMMAR)
        if not isinstance(value, str):
            raise ValueError(f"the value of {name} is not text: {value!r:.40}", f'put it in quotes: {name}: "..."')
        values = value.split("/") if several else [value]
        if len(values) > MAX_VALUES:
            raise ValueError(f"{name} has {len(values)} values", f"write at most {MAX_VALUES}")
        for one in values:
            if not _WORD(one):
                raise ValueError(f"{one!r:.80} is not a value of the label {name}", GRAMMAR)
        found[name] = "/".join(sorted(set(values)))
    return found


def parse(text: str, *, several: bool = False) -> dict[str, str]:
    """The labels in `region=eu,trust=own`; blanks around each are ignored. Raises `ValueError` as `check`."""
    labels: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.strip(" \t").partition("=")
        if not equals:
            raise ValueError(
                f"{part!r:.80} is not a label", "write NAME=VALUE, separated by commas: region=eu,trust=own"
            )
        if labels.setdefault(name, value) != value:
            raise ValueError(f"{name[:MAX_LENGTH]!r} has two values", "write one; nothing can have both")
    return check(labels, several=several)


def of_parent(text: str) -> Requirement:
    """The requirement in the field of a parent. Raises `ValueError` as `check`."""
    vouched = [part.strip(" \t").partition("=")[0] for part in text.split(",") if part.rstrip(" \t").endswith(_WHOLE)]
    return Requirement(parse(",".join([part.rstrip(" \t").removesuffix(_WHOLE) for part in text.split(",")])), vouched)


def write(labels: LabelSet) -> str:
    """The labels as `parse` reads them."""
    return ",".join([f"{name}={labels[name]}" for name in sorted(labels)])


def known(labels: LabelSet) -> dict[str, str]:
    """The labels of a set, without what it says of all others."""
    return {name: value for name, value in labels.items() if name != REST}


# -- sets --------------------------------------------------------------------------------------------------------


def value_of(labels: LabelSet, name: str) -> str | None:
    """What a set says of one name: a value or several, `DENIED`, or None: it is open."""
    value = labels.get(name)
    return labels.get(REST) if value is None else value


def _common(one: str | None, other: str | None) -> str | None:
    """The values that both allow."""
    if one is None or one == other:
        return other
    if other is None:
        return one
    if "/" not in one and "/" not in other:
        return DENIED
    return any_of([value for value in one.split("/") if value in other.split("/")])


def any_of(values: Iterable[str]) -> str:
    """One of these values; each may be several."""
    found: set[str] = set()
    for value in values:
        found.update(value.split("/"))
    found.discard(DENIED)
    return "/".join(sorted(found)) if len(found) <= MAX_VALUES else DENIED


def meet(one: LabelSet, other: LabelSet) -> dict[str, str]:
    """What is left where both sets hold."""
    both: dict[str, str] = {}
    rest = REST in one or REST in other
    for name in {*one, *other}:
        value = _common(value_of(one, name), value_of(other, name))
        if value is not None and (value != DENIED or name == REST or not rest):
            both[name] = value
    return both


def closed(labels: LabelSet) -> dict[str, str]:
    """These labels and no others."""
    return {**labels, REST: DENIED}


def is_offer(labels: LabelSet) -> bool:
    """Can anything be required of such a set?"""
    return REST not in labels or any(labels.values())


def best(sets: Iterable[LabelSet]) -> tuple[dict[str, str], ...] | None:
    """The sets, each once and without those that offer nothing; None if they are more than `MAX_SETS`."""
    found: list[dict[str, str]] = []
    for one in sets:
        own = meet(one, OPEN)  # as all sets are written
        if is_offer(own) and own not in found:
            found.append(own)
            if len(found) > MAX_SETS:
                return None
    return tuple(found)


def is_readable(labels: LabelSet) -> bool:
    """Is it a set as `meet` makes them? What a child sends may be anything."""
    if len(labels) > 2 * MAX_LABELS + 1:
        return False
    for name, value in labels.items():
        if name == REST:
            if value != DENIED:
                return False
        elif not _WORD(name) or (value != DENIED and not _are_values(value)):
            return False
    return True


def _are_values(text: str) -> bool:
    values = text.split("/")
    return len(values) <= MAX_VALUES + 1 and all(one == OTHER or _WORD(one) for one in values)
