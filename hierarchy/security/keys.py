"""API keys and admin keys: a file of their hashes, and their owners.

A key has 256 random bits and cannot be guessed, however fast the hash is. So SHA-256 is enough; the slow hashes that
passwords need would cost milliseconds a request and protect nothing more.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hierarchy.config.client_paths import ClientPaths
from hierarchy.config.yaml import expands_too_far
from hierarchy.errors import UsageError
from hierarchy.labels import Requirement, check
from hierarchy.runtime.blocking import AT_ONCE, Place
from hierarchy.runtime.files import FileWatch, locked, write_private_file
from hierarchy.security.caller import Caller
from hierarchy.security.secret import open_guarded

PREFIX = "hk-"
KEY_BYTES = 32
MAX_KEYS_PER_NAME = 2  # the old one and the new one, while clients change over
ID_CHARS = 8  # of the hash, which are the id of a key
LOCK_TIMEOUT_S = 10.0
HINT = "`hierarchy key create` writes such files"
log = logging.getLogger("hierarchy.security")


class Entry(msgspec.Struct, omit_defaults=True):
    """One key in the file."""

    name: str  # of the key's owner
    sha256: str  # of the key, 64 hex digits
    models: list[str] | None = None  # None for all
    created: str = ""  # date, ISO 8601
    paths: list[str] | None = None  # as `security.paths` in the configuration; None for what the node allows
    expires: datetime | None = None  # from when it is void; None for never. Without a time zone it is in UTC
    #: labels that whatever serves its requests must have. Without a value it is refused: a slip must not allow more
    require: dict[str, str] | msgspec.UnsetType = msgspec.UNSET

    @property
    def id(self) -> str:
        """A short name for the key. It does not reveal the key."""
        return self.sha256[:ID_CHARS]

    @property
    def void_at(self) -> float:
        """When it expires, in Unix seconds; infinite for never."""
        if self.expires is None:
            return math.inf
        return (self.expires if self.expires.tzinfo else self.expires.replace(tzinfo=UTC)).timestamp()


class _File(msgspec.Struct, forbid_unknown_fields=True):  # else `key create` would overwrite another YAML file
    keys: list[Entry] = []


def digest(key: bytes) -> str:
    """The SHA-256 of a key, in hex."""
    return hashlib.sha256(key).hexdigest()


class KeyFile:
    """The keys in a file, which is read again when it changes. A key that has expired is not among them."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            now: Unix seconds.

        Raises:
            UsageError: the file cannot be read or is not a file of keys.
        """
        self.path = path
        self._now = now
        self._watch = FileWatch(path)
        self._take(read_keys(path))

    def _take(self, entries: Sequence[Entry]) -> None:
        now = self._now()
        valid = [entry for entry in entries if entry.void_at > now]
        self._valid = valid
        self._callers = _callers(valid)
        self._next_expiry = min((entry.void_at for entry in valid), default=math.inf)

    def __len__(self) -> int:
        return len(self._callers)

    def find(self, key: bytes) -> Caller | None:
        """The owner of a key; None if the key is not in the file."""
        shown = digest(key)
        found = self._callers.get(shown)
        return found[1] if found is not None and hmac.compare_digest(found[0], shown) else None

    def reread(self) -> None:
        """Read the file again at the next `refresh`, whatever its metadata says."""
        self._watch.expect_change()

    async def refresh(self, place: Place = AT_ONCE) -> bool:
        """Read the file again if it changed. Returns whether the keys changed.

        A file that became unreadable is logged once and changes nothing: a mistake in an editor must neither lock out
        all clients nor give any access.

        Args:
            place: where the file is read.
        """
        try:
            entries = await place.run(self._read_if_changed)
        except UsageError as error:
            log.error("%s; the keys that were read before stay valid", error)
            return False
        except TimeoutError:  # the log has it already
            return False
        if entries is None:
            return False
        self._take(entries)
        log.info("%s: %d keys", self.path, len(self._callers))
        return True

    def _read_if_changed(self) -> list[Entry] | None:
        return read_keys(self.path) if self._watch.changed() else None

    def expire(self) -> bool:
        """Drop keys that have expired. Returns whether there were any."""
        if self._now() < self._next_expiry:
            return False
        before = self._valid
        self._take(before)
        for entry in before:
            if entry not in self._valid:
                log.info("%s: the key %s of %s has expired", self.path, entry.id, entry.name)
        return True


def _callers(entries: Iterable[Entry]) -> dict[str, tuple[str, Caller]]:
    return {entry.sha256: (entry.sha256, _caller(entry)) for entry in entries}


def _caller(entry: Entry) -> Caller:
    models = None if entry.models is None else frozenset(entry.models)
    paths = None if entry.paths is None else ClientPaths(entry.paths)
    require = None if entry.require is msgspec.UNSET else Requirement(check(entry.require))
    return Caller(entry.name, models, paths=paths, require=require)


def read_keys(path: Path) -> list[Entry]:
    """The entries of a file of keys. Raises `UsageError`."""
    try:
        with open_guarded(path, is_secret=False) as file:  # hashes, which others may read
            text = file.read().decode("utf-8")
        data = _plain(text)
        entries = msgspec.convert({} if data is None else data, _File).keys
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {HINT}") from None
    except (YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        where = str(error).partition("\n")[0] if isinstance(error, msgspec.ValidationError) else "not YAML"
        raise UsageError(f"{path}: is not a file of keys ({where}); {HINT}") from None
    for entry in entries:
        if len(entry.sha256) != 64 or entry.sha256.strip("0123456789abcdef"):
            raise UsageError(f'{path}: a key of "{entry.name}" has no SHA-256 of 64 hex digits; {HINT}')
        _check_paths(path, entry)
        _check_require(path, entry)
    return entries


def _plain(text: str) -> Any:
    """The plain data of a YAML document. Raises `YAMLError`, or another ValueError for what cannot be plain data."""
    yaml = YAML(typ="safe", pure=True)
    root = yaml.compose(text)
    if expands_too_far(root, text):  # a merge key takes time without end
        raise ValueError("its aliases stand for too much")
    return None if root is None else yaml.constructor.construct_document(root)


def _check_paths(path: Path, entry: Entry) -> None:
    try:
        ClientPaths(entry.paths or ())
    except ValueError as error:
        raise UsageError(f'{path}: `paths` of "{entry.name}": {error.args[0]}; {error.args[1]}') from None


def _check_require(path: Path, entry: Entry) -> None:
    if entry.require is not msgspec.UNSET:
        try:
            check(entry.require)
        except ValueError as error:
            raise UsageError(f'{path}: `require` of "{entry.name}": {error.args[0]}; {error.args[1]}') from None


def create_key(
    path: Path,
    name: str,
    models: list[str] | None,
    today: datetime | None = None,
    *,
    expires: datetime | None = None,
    paths: list[str] | None = None,
    require: dict[str, str] | None = None,
    deliver: Callable[[str], None] = lambda key: None,
) -> str:
    """Add a key to a file, which need not exist. Returns the key, which is stored nowhere.

    Args:
        name: of its owner.
        models: the models that the key is for; None for all.
        expires: from when it is void; None for never.
        paths: what it may call; None for what the node allows.
        require: labels that whatever serves its requests must have; None for none.
        deliver: gets the key before its hash is stored, so that no key is valid that its owner did not get.

    Raises:
        UsageError: `name` has two keys already, or the file cannot be read or written.
    """
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    now = today or datetime.now(UTC)
    with _exclusive(path):
        entries = read_keys(path) if path.exists() else []
        valid = [entry for entry in entries if entry.void_at > now.timestamp()]
        _check_key_count(path, name, [entry for entry in valid if entry.name == name])
        deliver(key)
        labels = msgspec.UNSET if require is None else require
        created = now.date().isoformat()
        _write(path, [*entries, Entry(name, digest(key.encode()), models, created, paths, expires, labels)])
    return key


def _check_key_count(path: Path, name: str, own: list[Entry]) -> None:
    if len(own) >= MAX_KEYS_PER_NAME:
        ids = " or ".join(entry.id for entry in own)
        raise UsageError(
            f'{path}: "{name}" has {len(own)} keys already; first run: hierarchy key revoke --file {path} --id {ids}'
        )


def revoke_keys(path: Path, *, name: str | None = None, key_id: str | None = None) -> list[Entry]:
    """Remove the keys of a name, or the one with an id. Returns them. Raises `UsageError` if there are none."""
    read_keys(path)  # fails for a wrong path before a lock file is created beside it
    with _exclusive(path):
        entries = read_keys(path)
        removed = [entry for entry in entries if entry.name == name or (key_id and entry.id == key_id)]
        if not removed:
            raise UsageError(f"{path}: no such key; `hierarchy key list --file {path}` lists the keys")
        _write(path, [entry for entry in entries if entry not in removed])
    return removed


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Keep other processes from editing the file. Raises `UsageError` if it cannot be locked or written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(path.with_name(f"{path.name}.lock"), LOCK_TIMEOUT_S):
            yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); check its folder") from None


def _write(path: Path, entries: list[Entry]) -> None:
    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    out.write("# Hashes of keys, by `hierarchy key`. The keys themselves are stored nowhere.\n")
    yaml.dump({"keys": [msgspec.to_builtins(entry) for entry in entries]}, out)
    write_private_file(path, out.getvalue())
