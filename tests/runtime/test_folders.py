"""The folders for caches and state."""

from __future__ import annotations

from pathlib import Path

import pytest
from platformdirs.api import PlatformDirsABC
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from hierarchy.errors import UsageError
from hierarchy.runtime.folders import cache_folder, state_folder


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The home folder is /h, and the environment of the tests sets no other folders."""
    monkeypatch.setenv("HOME", "/h")
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)


LINUX, MACOS = Unix("hierarchy"), MacOS("hierarchy")


@pytest.mark.parametrize(
    ("environ", "platform", "expected"),
    [
        ({"HIERARCHY_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, LINUX, "/c"),
        ({"XDG_CACHE_HOME": "/x"}, LINUX, "/x/hierarchy"),
        ({}, LINUX, "/h/.cache/hierarchy"),
        ({"XDG_CACHE_HOME": "/x"}, MACOS, "/x/hierarchy"),
        ({"HIERARCHY_CACHE": ""}, MACOS, "/h/Library/Caches/hierarchy"),
    ],
)
def test_where_the_cache_folder_is(environ: dict[str, str], platform: PlatformDirsABC, expected: str) -> None:
    assert cache_folder(environ, platform) == Path(expected)


@pytest.mark.parametrize(
    ("environ", "platform", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/h:/x", "XDG_STATE_HOME": "/s"}, LINUX, "/var/lib/h"),
        ({"XDG_STATE_HOME": "/s"}, LINUX, "/s/hierarchy"),
        ({}, LINUX, "/h/.local/state/hierarchy"),
        ({"XDG_STATE_HOME": "/s"}, MACOS, "/s/hierarchy"),
        ({}, MACOS, "/h/Library/Application Support/hierarchy"),
    ],
)
def test_where_the_state_folder_is(environ: dict[str, str], platform: PlatformDirsABC, expected: str) -> None:
    assert state_folder(environ, platform) == Path(expected)


class Homeless(Unix):
    """A platform that finds no home folder, and raises RuntimeError or returns a path that begins with `~`."""

    result: str | None = None

    @property
    def user_state_dir(self) -> str:
        if self.result is None:
            raise RuntimeError("could not determine the home directory")
        return self.result

    user_cache_dir = user_state_dir


@pytest.mark.parametrize("result", [None, "~/.local/state/hierarchy"])
def test_the_error_without_a_home_folder_names_the_setting(result: str | None) -> None:
    platform = Homeless("hierarchy")
    platform.result = result
    with pytest.raises(UsageError, match=r"no home folder for its state; set `security\.state_dir`"):
        state_folder({}, platform)
    with pytest.raises(UsageError, match="no home folder for cached files; set HIERARCHY_CACHE"):
        cache_folder({}, platform)
    assert state_folder({"XDG_STATE_HOME": "/s"}, platform) == Path("/s/hierarchy")
