"""The file in which the names of known models survive a restart of their node.

Nothing depends on it: without the file, or with a damaged one, clients of a node that has just restarted get a 404 at
worst. It is written when the set of names changes, at most every ten seconds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from hierarchy.names import MAX_NAME, is_printable_name
from hierarchy.registry.known_models import KNOWN_S, MAX_KNOWN
from hierarchy.runtime.blocking import Trouble
from hierarchy.runtime.files import write_private_file
from hierarchy.wire.listing import SeenKey

FILE_NAME = "models.json"
WRITE_INTERVAL_S = 10.0
UNSAVED = "after a restart its models are not known"
MAX_BYTES = 16 * 1024 * 1024  # more than `MAX_KNOWN` names of the longest length need
log = logging.getLogger("hierarchy.node")


class _Row(msgspec.Struct, frozen=True):
    name: str
    api: str
    age_s: float  # since a child listed it


class _Content(msgspec.Struct, frozen=True):
    models: list[_Row] = []


class ModelFile:
    """The file at `path`; its folder need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: frozenset[SeenKey] = frozenset()  # what the file contains
        self._begun_at = -math.inf  # the last write
        self._trouble = Trouble(path)

    def read(self) -> dict[SeenKey, float]:
        """The models with the seconds since a child listed them; empty, with a warning, if the file is damaged."""
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise ValueError(f"is larger than {MAX_BYTES} bytes")
            rows = msgspec.json.decode(self.path.read_bytes(), type=_Content).models
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:  # msgspec's errors and those of UTF-8 are ValueErrors
            reason = error.strerror if isinstance(error, OSError) else error
            log.warning("%s: cannot be read (%s); the models of the last run are not known", self.path, reason)
            return {}
        found = {(row.name, row.api): row.age_s for row in rows if _is_valid(row)}
        ages = dict(sorted(found.items(), key=lambda item: item[1])[:MAX_KNOWN])
        self._written = frozenset(ages)
        return {key: age_s for key, age_s in ages.items() if age_s < KNOWN_S}

    def is_due(self, models: Collection[SeenKey], now: float) -> bool:
        """Does the file have to be written now? Then call `write`, in its thread."""
        if now < self._begun_at + WRITE_INTERVAL_S or not self.differs(models):
            return False
        self._begun_at = now
        return True

    def differs(self, models: Collection[SeenKey]) -> bool:
        """Does the file contain other models than these?"""
        return len(models) != len(self._written) or not self._written.issuperset(models)

    def write(self, ages: Mapping[SeenKey, float]) -> None:
        """Write the models, with the seconds since a child listed each. May block. A failure is logged once."""
        rows = [_Row(name, api, round(age_s, 1)) for (name, api), age_s in ages.items()]
        try:
            write_private_file(self.path, msgspec.json.encode(_Content(rows)).decode() + "\n")
        except OSError as error:
            self._trouble.note(error, UNSAVED)
        else:
            self._trouble.over()
            self._written = frozenset(ages)


def _is_valid(row: _Row) -> bool:
    return is_printable_name(row.name) and len(row.api) <= MAX_NAME and row.age_s >= 0
