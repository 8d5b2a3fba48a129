"""Where secrets come from, and how they are written. What a secret says stands in no message."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hierarchy.errors import UsageError

MAX_SECRET = 16 * 1024


def read_secret(ref: str, environ: Mapping[str, str] = os.environ) -> str:
    """The secret at `env:NAME` or `file:PATH`.

    Raises:
        UsageError: it is not there, or others may read it.
    """
    kind, _, place = ref.partition(":")
    if kind == "file":
        return read_secret_file(secret_path(ref))
    if place not in environ:
        raise UsageError(f"{ref}: the environment has no {place}; set it, or write file:PATH")
    return check_secret(environ[place], ref)


def secret_path(ref: str) -> Path:
    """The path in `file:PATH`."""
    return Path(ref.removeprefix("file:")).expanduser()


def read_secret_file(path: Path) -> str:
    """The secret in a file that is its owner's alone. Raises `UsageError`."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise UsageError(f"{path}: others may read this secret (mode {mode:04o}); run: chmod 600 {path}")
            data = file.read(MAX_SECRET + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return check_secret(data.decode("utf-8", "replace"), str(path))


def check_secret(text: str, where: str) -> str:
    """One line of printable ASCII, without the blanks around it. Raises `UsageError`."""
    text = text.strip()
    if not text:
        raise UsageError(f"{where}: is empty, and should hold a secret")
    if len(text) > MAX_SECRET or not (text.isascii() and text.isprintable()):
        raise UsageError(f"{where}: holds no secret: one line of at most {MAX_SECRET} printable ASCII characters")
    return text


def write_private_file(path: Path, text: str) -> None:
    """Write a file of mode 0600 so that its readers find the old content or the new, whole. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # of mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
