"""Reading secrets from files and environment variables. No message contains a secret."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from hierarchy.errors import UsageError

MAX_SECRET = 16 * 1024  # characters


def read_secret(ref: str, environ: Mapping[str, str] = os.environ) -> str:
    """The secret at `env:NAME` or `file:PATH`.

    Raises:
        UsageError: it does not exist, or other users may read its file.
    """
    kind, _, place = ref.partition(":")
    if kind == "file":
        return read_secret_file(secret_path(ref))
    if place not in environ:
        raise UsageError(f"{ref}: the environment variable {place} is not set; set it, or write file:PATH")
    return check_secret(environ[place], ref)


def secret_path(ref: str) -> Path:
    """The path in `file:PATH`."""
    return Path(ref.removeprefix("file:")).expanduser()


def read_secret_file(path: Path) -> str:
    """The secret in a file that only its owner may read. Raises `UsageError`."""
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
    """The text without surrounding blanks. Raises `UsageError` for `where` if it is not one line of printable ASCII."""
    text = text.strip()
    if not text:
        raise UsageError(f"{where}: is empty, but must contain a secret")
    if len(text) > MAX_SECRET or not (text.isascii() and text.isprintable()):
        raise UsageError(
            f"{where}: is not a secret: it must be one line of at most {MAX_SECRET} printable ASCII characters"
        )
    return text
