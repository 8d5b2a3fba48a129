"""Trees for tests: from YAML text, from data, and random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from hierarchy.config.models import LoadedTree, TreeConfig, load, read
from hierarchy.config.yaml import Source
from hierarchy.topology.declared import DeclaredTree

CONFIGS = Path(__file__).parent.parent / "configs"


def load_tree(path: Path) -> DeclaredTree:
    """The tree of a file."""
    return DeclaredTree(load(path))


def from_text(folder: Path, text: str) -> DeclaredTree:
    """Load `text` as folder/tree.yaml."""
    path = folder / "tree.yaml"
    path.write_text(text, "utf-8")
    return load_tree(path)


def read_text(folder: Path, text: str) -> DeclaredTree:
    """Like `from_text`, of a file that may have problems."""
    path = folder / "tree.yaml"
    path.write_text(text, "utf-8")
    return DeclaredTree(read(path))


def from_data(data: dict[str, Any]) -> DeclaredTree:
    """A tree that is in no file."""
    return DeclaredTree(LoadedTree(TreeConfig.model_validate({"version": 1, **data}), Source("tree.yaml")))


def problems_of(tree: DeclaredTree) -> list[str]:
    """Its problems, without the folder: `LINE: FIELD: MESSAGE; HINT`."""
    return [f"{problem.line}: {problem.what}" for problem in tree.problems]


@st.composite
def valid_trees(draw: st.DrawFn) -> dict[str, Any]:
    """Data of a valid tree on loopback: each node's parent is an earlier one, and leaves have engines."""
    count = draw(st.integers(2, 12))
    nodes: dict[str, dict[str, Any]] = {"n0": {"listen": "localhost:20000"}}
    for n in range(1, count):
        nodes[f"n{n}"] = {"parent": f"n{draw(st.integers(0, n - 1))}", "listen": f"localhost:{20000 + n}"}
    inner = {node.get("parent") for node in nodes.values()}
    served = [name for name in nodes if name not in inner or draw(st.booleans())]
    engines = {f"e{n}": {"parent": name, "kind": "simulated"} for n, name in enumerate(served)}
    order = draw(st.permutations(list(nodes)))
    return {"nodes": {name: nodes[name] for name in order}, "engines": engines}
