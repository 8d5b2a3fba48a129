"""Keys of clients and of operators: a file of their hashes, and who shows which.

A key is 256 random bits. Nobody can guess one, however fast the hash, so SHA-256 is right here; the slow hashes that
passwords need would cost milliseconds a request and protect nothing more.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import logging
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hierarchy.errors import UsageError
from hierarchy.security.secret import write_private_file
from hierarchy.security.state import stamp_of

PREFIX = "hk-"
KEY_BYTES = 32
MAX_PER_NAME = 2  # the old and the new one, while they are exchanged
ID_CHARS = 8  # of the hash, to name a key by
log = logging.getLogger("hierarchy.security")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. models: those it may use; None for all. refusal: why it may use nothing, of a stranger; else ""."""

    name: str
    models: frozenset[str] | None = None
    refusal: str = ""

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


ANYONE = Caller("")  #: where no keys are in force


def stranger(why: str) -> Caller:
    """Somebody without a key that is known."""
    return Caller("", frozenset(), why)


class Entry(msgspec.Struct, omit_defaults=True):
    """One key in the file."""

    name: str
    sha256: str
    models: list[str] | None = None
    created: str = ""

    @property
    def id(self) -> str:
        return self.sha256[:ID_CHARS]


class _File(msgspec.Struct):
    keys: list[Entry] = []


def digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


class KeyFile:
    """The keys in a file, read again when it changes.

    Raises:
        UsageError: it cannot be read, or is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = stamp_of(path)
        self._callers = _callers(read_keys(path))

    def __len__(self) -> int:
        return len(self._callers)

    def find(self, key: bytes) -> Caller | None:
        """Who shows this key; None for one that is not in the file."""
        shown = digest(key)
        found = self._callers.get(shown)
        return found[1] if found is not None and hmac.compare_digest(found[0], shown) else None

    def refresh(self) -> bool:
        """Read the file again if it was changed; returns whether it was. A file that has become unreadable changes
        nothing, and is told once: a slip of the editor must not shut everybody out, nor let anybody in."""
        stamp = stamp_of(self.path)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._callers = _callers(read_keys(self.path))
        except UsageError as error:
            log.error("%s; the keys that were read before stay in force", error)
            return False
        log.info("%s: %d keys", self.path, len(self._callers))
        return True


def _callers(entries: Iterable[Entry]) -> dict[str, tuple[str, Caller]]:
    return {
        entry.sha256: (entry.sha256, Caller(entry.name, None if entry.models is None else frozenset(entry.models)))
        for entry in entries
    }


def read_keys(path: Path) -> list[Entry]:
    """The entries of a file of keys. Raises `UsageError`."""
    mend = "`hierarchy key create` writes such files"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o022:
            raise UsageError(f"{path}: others may write it (mode {mode:04o}); run: chmod 600 {path}")
        data: Any = YAML(typ="safe").load(path.read_text("utf-8"))
        entries = msgspec.convert({} if data is None else data, _File).keys
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {mend}") from None
    except (YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        where = str(error).partition("\n")[0] if isinstance(error, msgspec.ValidationError) else "not YAML"
        raise UsageError(f"{path}: is no file of keys ({where}); {mend}") from None
    for entry in entries:
        if len(entry.sha256) != 64 or entry.sha256.strip("0123456789abcdef"):
            raise UsageError(f'{path}: a key of "{entry.name}" has no SHA-256 of 64 hex digits; {mend}')
    return entries


def create_key(path: Path, name: str, models: list[str] | None, today: datetime | None = None) -> str:
    """Add a key to the file, which need not exist; returns the key, which is nowhere else.

    Raises:
        UsageError: `name` has two already.
    """
    entries = read_keys(path) if path.exists() else []
    own = [entry for entry in entries if entry.name == name]
    if len(own) >= MAX_PER_NAME:
        ids = " or ".join(entry.id for entry in own)
        raise UsageError(
            f'{path}: "{name}" has {len(own)} keys already; first run: hierarchy key revoke --file {path} --id {ids}'
        )
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    created = (today or datetime.now(UTC)).date().isoformat()
    _write(path, [*entries, Entry(name, digest(key.encode()), models, created)])
    return key


def revoke_keys(path: Path, *, name: str | None = None, key_id: str | None = None) -> list[Entry]:
    """Take out the keys of a name, or the one of an id; returns what was taken out. Raises `UsageError` if nothing."""
    entries = read_keys(path)
    gone = [entry for entry in entries if entry.name == name or (key_id and entry.id == key_id)]
    if not gone:
        raise UsageError(f"{path}: no such key; `hierarchy key list --file {path}` shows those there are")
    _write(path, [entry for entry in entries if entry not in gone])
    return gone


def _write(path: Path, entries: list[Entry]) -> None:
    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    out.write("# Hashes of keys, by `hierarchy key`. The keys themselves are nowhere.\n")
    yaml.dump({"keys": [msgspec.to_builtins(entry) for entry in entries]}, out)
    try:
        write_private_file(path, out.getvalue())
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); check its folder") from None
