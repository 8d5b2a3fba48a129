"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Mark(Enum):
    OK = "ok"
    WARN = "warn"  # it works, but not as it could, or cannot be told from here
    FAIL = "fail"
    SKIP = "skip"  # does not apply


@dataclass(frozen=True)
class Finding:
    """check: its name; what: in words; mend: what to do, where there is something."""

    check: str
    mark: Mark
    what: str
    mend: str = ""


def ok(check: str, what: str) -> Finding:
    return Finding(check, Mark.OK, what)


def warn(check: str, what: str, mend: str = "") -> Finding:
    return Finding(check, Mark.WARN, what, mend)


def fail(check: str, what: str, mend: str = "") -> Finding:
    return Finding(check, Mark.FAIL, what, mend)


def skip(check: str, what: str) -> Finding:
    return Finding(check, Mark.SKIP, what)
