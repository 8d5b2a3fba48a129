"""Writes the versions of all packages that the tests ran with: deploy/constraints.txt, for `pip install . -c`.

    .venv/bin/python tools/lock.py > deploy/constraints.txt

Without it an installation gets the newest versions that pyproject.toml allows, which nobody may have tried together.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = ("local",)  # what an operator installs beside the package itself
HEADER = """\
# The versions with which the tests of this release passed, for: pip install . -c deploy/constraints.txt
# `make lock` writes this file.
"""


def canonical(name: str) -> str:
    """A package's name as indexes compare it. Source: the packaging specification, "Names and normalization"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct() -> list[str]:
    """What pyproject.toml requires."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    return [*project["dependencies"], *(text for extra in EXTRAS for text in project["optional-dependencies"][extra])]


def needed(
    requirements: Iterable[str], requires: Callable[[str], Iterable[str] | None] = metadata.requires
) -> set[str]:
    """The canonical names of all packages that these requirements need on this machine.

    requires: the requirements of an installed package.
    """
    todo = [Requirement(text) for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        one = todo.pop()
        key = canonical(one.name), frozenset(one.extras)
        if key in seen:
            continue
        seen.add(key)
        for further in map(Requirement, requires(one.name) or ()):
            extras = ("", *one.extras)
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(further)
    return {name for name, _ in seen}


def main() -> int:
    """Print the file."""
    versions = {name: metadata.version(name) for name in needed(direct())}
    sys.stdout.write(HEADER + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
