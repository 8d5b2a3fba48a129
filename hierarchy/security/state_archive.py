"""A node's state folder in one file, and back: `hierarchy state backup` and `restore`.

The archive is a gzipped tar of mode 0600: first `manifest.json`, which has the hash of each file, then the files. It
contains the node's credential, so it is as secret as the folder itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hierarchy.errors import UsageError
from hierarchy.release import VERSION
from hierarchy.runtime.expiry import date_of
from hierarchy.runtime.files import Busy, Hold, locked, write_private_file
from hierarchy.security.state import RUNNING
from hierarchy.security.token_store import FILE, LOCK, LOCK_TIMEOUT_S, decode

FORMAT = 1
MANIFEST = "manifest.json"
MAX_FILE = 256 * 1024 * 1024  # bytes; more is not a node's state
MAX_FILES = 1000


class _Manifest(msgspec.Struct):
    format: int
    node: str  # name of the node
    made: float  # Unix seconds
    version: str  # of the release that made it
    files: dict[str, str]  # name -> SHA-256 of its content, in hex


@dataclass(frozen=True)
class Summary:
    """What is in an archive."""

    node: str
    made: float  # Unix seconds
    files: list[str]


@contextlib.contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Turn problems with files into a `UsageError`."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{error.filename or path}: {error.strerror or error}; check its folder") from None


def backup(folder: Path, node: str, archive: Path, *, force: bool = False) -> Summary:
    """Write the state folder of a node to a new file. The node may run.

    Args:
        force: replace the file if it exists.

    Raises:
        UsageError: there is nothing to back up, the file exists, or it cannot be written.
    """
    if archive.exists() and not force:
        raise UsageError(f"{archive}: exists already; choose another file, or add --force")
    with _usable(folder):
        contents = _contents(folder)
    if not contents:
        raise UsageError(f"{folder}: holds no state; check --node and `state_dir`")
    made = time.time()
    hashes = {name: _hash(content) for name, content in contents.items()}
    manifest = msgspec.json.encode(_Manifest(FORMAT, node, made, VERSION, hashes))
    with _usable(archive):
        write_private_file(archive, _tar({MANIFEST: manifest, **contents}, made))
    return Summary(node, made, list(contents))


def restore(folder: Path, node: str, archive: Path, *, force: bool = False) -> tuple[Summary, Path | None]:
    """Write the files of an archive to a node's state folder. The node must not run.

    Args:
        force: replace what is there, which is kept beside it, or use the archive of a node of another name.

    Returns:
        What was restored, and where the former folder is now; None if there was none.

    Raises:
        UsageError: the archive is damaged or that of another node, the node runs, or there is state in the folder.
    """
    with _usable(archive):
        summary, contents = _read(archive)
    if summary.node != node and not force:
        raise UsageError(
            f'{archive}: is the state of node "{summary.node}", not of "{node}"; choose --node, or add --force for a '
            "new replica of it"
        )
    with _usable(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            hold = Hold(folder / RUNNING, alone=True)
        except Busy:
            raise UsageError(f'{folder}: node "{node}" is running with it; stop the node first') from None
        try:
            return summary, _replace(folder, contents, summary, force=force)
        finally:
            hold.release()


def _replace(folder: Path, contents: Mapping[str, bytes], summary: Summary, *, force: bool) -> Path | None:
    """Put the files there. Returns where those that were there are now."""
    present = _names(folder)
    if present and not force:
        raise UsageError(f"{folder}: {_describe(folder, present, summary.made)}; add --force to replace it")
    kept = None
    if present:
        begin = f"{folder.name}.replaced-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-"
        kept = Path(tempfile.mkdtemp(dir=folder.parent, prefix=begin))  # of mode 0700
        for name in present:
            (folder / name).rename(kept / name)
    for name, content in contents.items():
        write_private_file(folder / name, content)
    return kept


def _describe(folder: Path, present: list[str], made: float) -> str:
    """What is in the folder, and whether it changed after the archive was made."""
    changed = max((folder / name).stat().st_mtime for name in present)
    newer = "is newer than the archive" if changed > made else "is not empty"
    counts = ""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        content = decode((folder / FILE).read_bytes())
        counts = f" with {len(content.used)} used tokens and {len(content.revoked)} revocations"
    return (
        f"{newer}: it holds {', '.join(present)}{counts}, changed on {date_of(changed)}; the archive was made on "
        f"{date_of(made)}"
    )


def _contents(folder: Path) -> dict[str, bytes]:
    """All files of a state folder. No other process changes used tokens and revocations meanwhile."""
    if not _names(folder):
        return {}
    with locked(folder / LOCK, LOCK_TIMEOUT_S):
        return {name: (folder / name).read_bytes() for name in _names(folder)}


def _names(folder: Path) -> list[str]:
    """The files of a state folder, without locks and files that are being written."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_file() and _is_state(path.name))


def _is_state(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(".lock")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _tar(contents: Mapping[str, bytes], made: float) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(made)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _read(archive: Path) -> tuple[Summary, dict[str, bytes]]:
    """The content of an archive, checked completely before anything is written. Raises `UsageError`, OSError."""
    damaged = f"{archive}: is not a complete archive of `hierarchy state backup`"
    try:
        with tarfile.open(fileobj=io.BytesIO(archive.read_bytes()), mode="r:gz") as tar:
            contents = dict(_members(tar))
        manifest = msgspec.json.decode(contents.pop(MANIFEST), type=_Manifest)
    except (tarfile.TarError, EOFError, KeyError, ValueError, ArithmeticError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UsageError(f"{damaged}; use another one") from None
    if manifest.format != FORMAT:
        raise UsageError(
            f"{archive}: was made by release {manifest.version}; restore it with that release or a later one"
        )
    if manifest.files != {name: _hash(content) for name, content in contents.items()}:
        raise UsageError(f"{damaged}: its files were changed; use another one")
    try:
        decode(contents.get(FILE, b"{}"))
    except msgspec.DecodeError:
        raise UsageError(f"{archive}: its {FILE} is damaged; use another archive") from None
    return Summary(manifest.node, manifest.made, list(contents)), contents


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file. Raises `ValueError` for what no state folder has."""
    for number, entry in enumerate(tar):
        name = entry.name
        if not entry.isfile() or name != Path(name).name or not _is_state(name):
            raise ValueError("not a file of a state folder")
        if entry.size > MAX_FILE or number > MAX_FILES:
            raise ValueError("too large")
        file = tar.extractfile(entry)
        yield name, file.read() if file is not None else b""
