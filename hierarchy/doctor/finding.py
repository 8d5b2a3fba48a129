"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Mark(Enum):
    """The verdict of a check."""

    OK = "ok"
    WARN = "warn"  # it works, but not well; or this machine cannot find out
    FAIL = "fail"
    SKIP = "skip"  # does not apply


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    #: name of the check
    check: str
    mark: Mark
    #: what was found
    what: str
    #: how to fix it; "" if there is nothing to fix
    hint: str = ""


def ok(check: str, what: str) -> Finding:
    """A check that passed."""
    return Finding(check, Mark.OK, what)


def warn(check: str, what: str, hint: str = "") -> Finding:
    """A check that passed with reservations, or could not find out."""
    return Finding(check, Mark.WARN, what, hint)


def fail(check: str, what: str, hint: str = "") -> Finding:
    """A check that failed: the node cannot work like that."""
    return Finding(check, Mark.FAIL, what, hint)


def skip(check: str, what: str) -> Finding:
    """A check that does not apply."""
    return Finding(check, Mark.SKIP, what)
