"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """The verdict of a check."""

    OK = "ok"
    WARN = "warn"  # works, but not well; or cannot be found out from this machine
    FAIL = "fail"
    SKIP = "skip"  # does not apply


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    #: name of the check
    check: str
    verdict: Verdict
    #: what was found
    what: str
    #: how to fix it; "" if there is nothing to fix
    hint: str = ""


def ok(check: str, what: str) -> Finding:
    """A check that passed."""
    return Finding(check, Verdict.OK, what)


def warn(check: str, what: str, hint: str = "") -> Finding:
    """A check that passed with a reservation, or that had no result."""
    return Finding(check, Verdict.WARN, what, hint)


def fail(check: str, what: str, hint: str = "") -> Finding:
    """A check that failed: the node cannot work until that is fixed."""
    return Finding(check, Verdict.FAIL, what, hint)


def skip(check: str, what: str) -> Finding:
    """A check that does not apply."""
    return Finding(check, Verdict.SKIP, what)
