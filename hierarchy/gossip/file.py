"""The records of one node in a file, so that they outlast a restart. Instances may share the file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from hierarchy.runtime.blocking import Trouble
from hierarchy.runtime.files import FileWatch, locked, write_private_file
from hierarchy.wire.record import Record

LOCK_TIMEOUT_S = 2.0  # another instance needs milliseconds
RETRY_S = 5.0  # until what could not be written is tried again without a change
UNSAVED = "drains end with the restart of this node"
Records = Mapping[tuple[str, str], Record]
log = logging.getLogger("hierarchy.gossip")


class RecordFile:
    """The file at `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._watch = FileWatch(path)
        self._trouble = Trouble(path)
        self._retry_at = 0.0  # monotonic seconds

    def read(self) -> list[Record]:
        """All records; none if the file cannot be read, which is logged. A damaged file is moved aside."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=list[Record])
        except FileNotFoundError:
            pass
        except OSError as error:
            log.error("%s: cannot be read (%s); what it contains is not in force", self.path, error.strerror)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            self._move_aside()
        return []

    def read_if_changed(self) -> list[Record]:
        """All records, if another process wrote the file since it was read or written here."""
        return self.read() if self._watch.changed() else []

    def may_try(self) -> bool:
        """Whether it is worth a try to write it: the last one succeeded, or was some seconds ago."""
        return time.monotonic() >= self._retry_at

    def write(self, records: Records, now_ms: float = 0.0) -> list[Record] | None:
        """Write these records, except where the file has newer ones. Returns all that it now has.

        Args:
            now_ms: Unix milliseconds; records whose time is over are left out.

        Returns None, and logs why, if that fails.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self.path.with_suffix(".lock"), LOCK_TIMEOUT_S):
                known = [record for record in self.read() if not record.is_over(now_ms)]
                merged = newest([*known, *records.values()])
                write_private_file(self.path, _text(merged.values()))
            self._watch.changed()  # this change is known
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_S
            self._trouble.note(error, UNSAVED)
            return None
        self._trouble.over()
        return [*merged.values()]

    def _move_aside(self) -> None:
        aside = self.path.with_suffix(".damaged")
        try:
            self.path.replace(aside)
        except OSError as error:
            log.error("%s: is damaged, and cannot be moved (%s); nothing of it is in force", self.path, error.strerror)
            return
        log.error("%s: is damaged, moved to %s; nothing of it is in force: drain again", self.path, aside.name)


def newest(records: Iterable[Record]) -> dict[tuple[str, str], Record]:
    """The newest record for each topic and key."""
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        if record.replaces(found.get(record.id)):
            found[record.id] = record
    return found


def _text(records: Iterable[Record]) -> str:
    lines = ",\n".join(msgspec.json.encode(record).decode() for record in records)
    return f"[\n{lines}\n]\n"
