"""A module imports only from strictly lower layers, except inside its own package. Read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: layer -> its modules and packages (a package with all that is in it, unless a longer name stands here)
TABLE = {
    0: "address allocator budget ejection errors lifeline logs metrics naming source spec status subtree tasks",
    1: "aliases checks child config dial drawing drift form processes reach risks route translation wire",
    2: "live policy registry rewrite schema security topology",
    3: "engines slices view relay.answer relay.ask relay.attempts relay.dialect relay.ending relay.framing relay.head "
    "relay.limits relay.link relay.peek relay.pool relay.render relay.seen relay.upstream relay.waiting relay.watch",
    4: "dispatch health relay.interpreter uplink",
    5: "controller doctor keeper oversight relay.exchange relay.fast relay.knock relay.lane relay.local relay.protocol "
    "relay.reaching relay.reserve relay.retrying relay.turns",
    6: "node",
    7: "api reload",
    8: "server",
    9: "cli",
}
LAYERS = {f"hierarchy.{name}": layer for layer, names in TABLE.items() for name in names.split()}
#: the package's own face, and its `python -m`: they stand above everything
FACES = frozenset({"hierarchy", "hierarchy.__main__"})


def layer(name: str) -> int | None:
    """Of a module, or of something in one; None if the table does not know it."""
    while name and name not in LAYERS:
        name = name.rpartition(".")[0]
    return LAYERS.get(name)


def imports(source: str, package: str) -> Iterator[str]:
    """What a module of `package` imports of `hierarchy`, wherever it stands in it, as full names."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            names = [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
        elif (isinstance(node, ast.Name) and node.id == "__import__") or (
            isinstance(node, ast.Attribute) and node.attr == "import_module"
        ):
            names = ["hierarchy.by-a-computed-name"]  # which this test cannot see, so it is not allowed
        yield from (name for name in names if name.split(".")[0] == "hierarchy")


def violations(module: str, source: str, package: str) -> list[str]:
    """The imports that break the rule, in words."""
    own = layer(module)
    found = []
    for name in imports(source, package):
        other = layer(name)
        same_package = name.split(".")[:2] == module.split(".")[:2]
        if own is None or other is None or other > own or (other == own and not same_package):
            found.append(f"{module} (layer {own}) imports {name} (layer {other})")
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted((ROOT / "hierarchy").rglob("*.py"))}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - FACES))
def test_a_module_imports_only_from_lower_layers(module: str) -> None:
    source = MODULES[module].read_text()
    is_package = MODULES[module].name == "__init__.py"
    only_a_docstring = all(isinstance(statement, ast.Expr) for statement in ast.parse(source).body)
    assert layer(module) is not None or only_a_docstring, f"{module} has no layer: give it one in TABLE"
    assert violations(module, source, module if is_package else module.rpartition(".")[0]) == []


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("hierarchy.registry", "from hierarchy.errors import HierarchyError", 0),
        ("hierarchy.registry", "from hierarchy import errors, wire", 0),
        ("hierarchy.registry", "from .errors import HierarchyError", 0),
        ("hierarchy.registry", "import json, hierarchy.errors", 0),
        ("hierarchy.registry", "from hierarchy.policy import POLICIES", 1),  # the same layer, another package
        ("hierarchy.registry", "from hierarchy import node", 1),
        ("hierarchy.registry", "from . import node", 1),
        ("hierarchy.registry", "import hierarchy.node", 1),
        ("hierarchy.registry", "def f():\n    from hierarchy.node import Node", 1),
        ("hierarchy.registry", "from hierarchy import __version__", 1),
        ("hierarchy.registry", "importlib.import_module('hierarchy.node')", 1),
        ("hierarchy.registry", "__import__(name)", 1),
        ("hierarchy.unknown", "from hierarchy.errors import HierarchyError", 1),
        ("hierarchy.engines.vllm", "from hierarchy.engines.reading import get", 0),
        ("hierarchy.relay.lane", "from hierarchy.relay.exchange import Exchange", 0),
        ("hierarchy.relay.upstream", "from hierarchy.relay.lane import Lane", 1),
    ],
)
def test_the_rule_itself(module: str, source: str, count: int) -> None:
    assert len(violations(module, source, "hierarchy")) == count
