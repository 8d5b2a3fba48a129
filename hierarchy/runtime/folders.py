"""The folders for a user's caches and state, by the conventions of the platform. They are not created here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from platformdirs import PlatformDirs
from platformdirs.api import PlatformDirsABC

from hierarchy.errors import UsageError

NAME = "hierarchy"
DEFAULTS = PlatformDirs(NAME, appauthor=False)


def expand(path: str) -> Path:
    """A path as it is written in a configuration: `~` and `~user` are home folders.

    Raises:
        UsageError: there is no such user, or it is not a path.
    """
    if "\0" in path:
        raise UsageError(f"{path!r}: is not a path, since it contains a NUL character; remove that")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"{path}: this user has no home folder; write the whole path") from None


def cache_folder(environ: Mapping[str, str] = os.environ, defaults: PlatformDirsABC = DEFAULTS) -> Path:
    """`HIERARCHY_CACHE`, else the user's folder for caches (Linux: `~/.cache/hierarchy`).

    Raises:
        UsageError: the user has no home folder.
    """
    if own := environ.get("HIERARCHY_CACHE"):
        return expand(own)
    if base := environ.get("XDG_CACHE_HOME"):
        return expand(base) / NAME
    return _in_home(lambda: defaults.user_cache_dir, "cached files", "HIERARCHY_CACHE")


def state_folder(environ: Mapping[str, str] = os.environ, defaults: PlatformDirsABC = DEFAULTS) -> Path:
    """The folder that systemd gives the service, else the user's folder for state (Linux: `~/.local/state/hierarchy`).

    Raises:
        UsageError: the user has no home folder.
    """
    if systemd := environ.get("STATE_DIRECTORY"):
        return Path(systemd.partition(":")[0])
    if base := environ.get("XDG_STATE_HOME"):
        return Path(base) / NAME
    return _in_home(lambda: defaults.user_state_dir, "its state", "`security.state_dir`")


def _in_home(find: Callable[[], str], content: str, setting: str) -> Path:
    try:
        folder = Path(find())
    except RuntimeError:  # what platformdirs 4.11 and later raise; earlier versions return a path that begins with `~`
        folder = Path("~")
    if str(folder).startswith("~"):
        raise UsageError(f"this user has no home folder for {content}; set {setting}")
    return folder
