"""Trees for tests, from YAML text or from data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hierarchy.config.models import LoadedTree, TreeConfig, load
from hierarchy.config.yaml import Source
from hierarchy.topology.graph import validate

CONFIGS = Path(__file__).parent.parent / "configs"


def from_text(folder: Path, text: str) -> LoadedTree:
    """Load `text` as folder/tree.yaml."""
    path = folder / "tree.yaml"
    path.write_text(text, "utf-8")
    return load(path)


def from_data(data: dict[str, Any]) -> LoadedTree:
    """A tree that stands in no file."""
    return LoadedTree(TreeConfig.model_validate({"version": 1, **data}), Source("tree.yaml"))


def told(loaded: LoadedTree) -> list[str]:
    """What `validate` says, without the folder: `LINE: FIELD: MESSAGE; MEND`."""
    return [f"{problem.line}: {problem.what}" for problem in validate(loaded)]
