"""Reading secrets from files and environment variables. No message contains a secret.

`open_guarded` opens every file with a secret: keys, tokens, credentials, private keys; and those that only decide what
is allowed: hashes of keys, a parent's records. It is the one place that judges who else could read or change them.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO

from hierarchy.errors import UsageError
from hierarchy.runtime.folders import expand

# Environment variables:
JOIN_TOKEN = "HIERARCHY_JOIN_TOKEN"
ADMIN_KEY = "HIERARCHY_ADMIN_KEY"  # an operator's key, for commands
API_KEY = "HIERARCHY_API_KEY"  # a client's key, for commands
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
    """The path in `file:PATH`. Raises `UsageError`."""
    return expand(ref.removeprefix("file:"))


def read_secret_file(path: Path) -> str:
    """The secret in a file that no other user may read. Raises `UsageError`."""
    try:
        with open_guarded(path) as file:
            data = file.read(MAX_SECRET + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return check_secret(data.decode("utf-8", "replace"), str(path))


def open_guarded(path: Path, *, is_secret: bool = True) -> BinaryIO:
    """Open a file that other users must not read, or must not change if it is not secret.

    Symbolic links are followed: Kubernetes swaps one to change a mounted file. What counts is the file at their end.

    Raises:
        UsageError: others may read or change the file.
        OSError: it cannot be opened.
    """
    file = path.open("rb")
    try:
        found = os.fstat(file.fileno())  # of the open file: the path may lead to another one by now
        groups = {0, os.getegid(), *os.getgroups()}
        reason = exposure(found, is_secret=is_secret, user=os.geteuid(), groups=groups)
        if reason:
            raise UsageError(f"{path}: {reason} (mode {stat.S_IMODE(found.st_mode):04o}); run: {_remedy(found, path)}")
    except BaseException:
        file.close()
        raise
    return file


def exposure(found: os.stat_result, *, is_secret: bool, user: int, groups: Collection[int]) -> str:
    """Who may read or change a file although nobody else should; empty if it is guarded.

    It is if its owner is root or the user of this process, its group is one of this process or has no access, and
    others have none, as Kubernetes and package managers give a daemon its secrets (0400, 0440, 0640). root may also use
    the files of another user that nobody but this user can read.

    Args:
        is_secret: whether others must not even read it; else they must not write it.
        user, groups: of this process.
    """
    denied = 0o7 if is_secret else 0o2
    others, group = found.st_mode & denied, found.st_mode >> 3 & denied
    who = ""
    if others:
        who = "others may"
    elif group and found.st_gid not in groups:
        who = "a group that this process is not in may"
    elif is_secret and found.st_uid not in (0, user) and (user != 0 or group):
        who = f"its owner, {_user_name(found.st_uid)}, is another user, who may"
    return who and f"{who} {'read this secret' if is_secret else 'write it'}"


def folder_exposure(found: os.stat_result, user: int) -> str:
    """Who else may replace the files in a folder; empty if nobody may. user: of this process.

    root may use the folder of another user: in a container that is one of its host. Files in a folder with the sticky
    bit are their owners'.
    """
    if found.st_uid not in (0, user) and user != 0:
        return f"it belongs to another user, {_user_name(found.st_uid)}"
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        return "every user may write to it"
    return ""


def _remedy(found: os.stat_result, path: Path) -> str:
    own = found.st_uid in (0, os.geteuid())
    return f"chmod 600 {path}" if own else f"chown {_user_name(os.geteuid())} {path} && chmod 600 {path}"


def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


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
