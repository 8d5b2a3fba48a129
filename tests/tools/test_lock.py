"""The locked versions: complete, and those that pyproject.toml allows."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.trees import CONFIGS

ROOT = CONFIGS.parent
LOCK: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "lock.py"))


@pytest.fixture
def locked() -> dict[str, Version]:
    lines = (ROOT / "deploy" / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {name: Version(version) for name, version in pairs}


def test_the_locked_versions_are_allowed(locked: dict[str, Version]) -> None:
    for one in map(Requirement, LOCK["direct"]()):
        # `make lock` adds what is missing
        assert locked[LOCK["canonical"](one.name)] in one.specifier, one


def test_what_packages_need_is_followed_with_their_extras() -> None:
    tree = {
        "a": ["B_c[fast]>=1", "never; python_version < '3'", "not-asked; extra == 'x'"],
        "B_c": ["d", "e; extra == 'fast'", "f; extra == 'slow'"],
        "d": ["a"],
        "e": None,
    }
    assert LOCK["needed"](["a"], tree.__getitem__) == {"a", "b-c", "d", "e"}
